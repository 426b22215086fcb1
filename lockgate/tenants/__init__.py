"""Tenants: who may call a server, by which keys, in which role and within which limits."""

from lockgate.tenants._alerts import Alert
from lockgate.tenants._book import Book, KeyInfo, TenantInfo
from lockgate.tenants._campaigns import SIGNALS, CampaignOptions, Campaigns, Sign
from lockgate.tenants._limits import Limits, Refusal, Use
from lockgate.tenants._principal import ROLES, Principal, Role
from lockgate.tenants._schema import OPERATIONS_SCHEMA, PASSWORD_VARIABLE
from lockgate.tenants._settings import Settings
from lockgate.tenants._tenants import CACHE_SECONDS, Caller, Tenants

__all__ = [
    "CACHE_SECONDS",
    "OPERATIONS_SCHEMA",
    "PASSWORD_VARIABLE",
    "ROLES",
    "SIGNALS",
    "Alert",
    "Book",
    "Caller",
    "CampaignOptions",
    "Campaigns",
    "KeyInfo",
    "Limits",
    "Principal",
    "Refusal",
    "Role",
    "Settings",
    "Sign",
    "TenantInfo",
    "Tenants",
    "Use",
]
