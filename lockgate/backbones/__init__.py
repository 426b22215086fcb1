"""Backbones: language models that read many token streams in one packed step and show their activations."""

from lockgate.backbones._attention import PackedStep, Segment, packed_attention
from lockgate.backbones._backbone import Backbone, BackboneIdentity, without_progress_bars
from lockgate.backbones._chat import RenderedChat, Span, banned_ids
from lockgate.backbones._derived import Injection, derive, derive_upper, front
from lockgate.backbones._embedded import embedded_identity, embedded_is_ready, embedded_path, fetch_embedded
from lockgate.backbones._placement import DEVICES, DTYPES, Placement, choose_placement, stored_dtypes
from lockgate.backbones._reading import Read, Reading, read_packed
from lockgate.backbones._selftest import SelfCheck
from lockgate.backbones._sessions import Feed, Session, SessionPool
from lockgate.backbones._taps import SITES, Site, Tap, TapGroup
from lockgate.backbones._tree import TreePart, TreeStep, tree_part
from lockgate.backbones._vocabulary import AnswerTokeniser, Detokeniser, TextToken

__all__ = [
    "DEVICES",
    "DTYPES",
    "SITES",
    "AnswerTokeniser",
    "Backbone",
    "BackboneIdentity",
    "Detokeniser",
    "Feed",
    "Injection",
    "PackedStep",
    "Placement",
    "Read",
    "Reading",
    "RenderedChat",
    "Segment",
    "SelfCheck",
    "Session",
    "SessionPool",
    "Site",
    "Span",
    "Tap",
    "TapGroup",
    "TextToken",
    "TreePart",
    "TreeStep",
    "banned_ids",
    "choose_placement",
    "derive",
    "derive_upper",
    "embedded_identity",
    "embedded_is_ready",
    "embedded_path",
    "fetch_embedded",
    "front",
    "packed_attention",
    "read_packed",
    "stored_dtypes",
    "tree_part",
    "without_progress_bars",
]
