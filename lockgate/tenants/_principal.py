"""Who calls: a tenant, by one of its keys, in a role."""

from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["client", "reviewer", "admin"]
# From the least to the most that a key may do.
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    Attributes:
        tenant: name of the tenant; "" for keys of the config file, which belong to none.
        key: public id of the key, which is its prefix. Never the secret.
    """

    tenant: str
    key: str
    role: Role

    def may(self, role: Role) -> bool:
        """Tell whether the caller may do what `role` may do. Higher roles may do all that lower ones may."""
        return ROLES.index(self.role) >= ROLES.index(role)
