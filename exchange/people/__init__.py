"""Who may do what: users, their sessions and tokens, roles, and what needs a second person."""
