"""From snapshots to rows and columns; no Textual here but the row's own type."""
