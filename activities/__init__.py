"""Small stateless steps, one concern per module. They receive ports and never open a connection themselves."""
