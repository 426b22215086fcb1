"""Whether a guard follows its policy or its subject: two constitutions, one set of pairs."""
