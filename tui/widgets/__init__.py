"""What screens are made of. Widgets speak upward by message and never import the app."""
