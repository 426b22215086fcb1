"""Does a guard follow its policy or its subject? Two constitutions judge one set of pairs."""
