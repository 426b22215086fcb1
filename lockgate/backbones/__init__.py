"""Backbones: language models that read packed streams of tokens and show their activations."""

from lockgate.backbones._backbone import Backbone, BackboneIdentity
from lockgate.backbones._chat import RenderedChat, Span, banned_ids
from lockgate.backbones._embedded import embedded_identity, embedded_is_ready, embedded_path, fetch_embedded
from lockgate.backbones._generate import generate_answers
from lockgate.backbones._reading import Read, Reading, read_packed
from lockgate.backbones._sessions import Feed, Session, SessionPool
from lockgate.backbones._taps import SITES, Site, Tap

__all__ = [
    "SITES",
    "Backbone",
    "BackboneIdentity",
    "Feed",
    "Read",
    "Reading",
    "RenderedChat",
    "Session",
    "SessionPool",
    "Site",
    "Span",
    "Tap",
    "banned_ids",
    "embedded_identity",
    "embedded_is_ready",
    "embedded_path",
    "fetch_embedded",
    "generate_answers",
    "read_packed",
]
