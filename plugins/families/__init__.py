"""Built-in instructions, one file a family, registered through the hooks that any plugin uses."""
