"""The keys of the screen: one table, and the keys that a user gave its actions in `config.toml`.

`table` holds a row for each action; `keymap` joins it with the user's configuration and answers
which key an action has; `page` writes the tables of the documentation. Dispatch, footer, `?`,
palette and documentation all come from these rows. Called by `tui.screens`, `tui.widgets` and
`tui.app`; it may import Textual's bindings and `workbench`, nothing else of `tui`.
"""
