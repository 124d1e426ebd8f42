"""The New run page: a recipe, the settings to change, and what each card would take, while typing.

`drafting` starts the child process that reads recipes and plans them, `page` is the screen,
`lines` turns the child's answers into text. Opened by `tui.app`; it imports neither pydantic nor
the planner, and submits by the app's requests.
"""
