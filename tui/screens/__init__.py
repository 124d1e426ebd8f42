"""One module for each view of the screen, and the panels laid over a view.

`view` is the frame that all views share: top line, banner, body, filter. `trial_keys` has the keys
that all of them have, and `curve_page` those of pages with curves. `panel` holds the kinds of
panels, `asking` the panels with their text. The app composes these screens; they read its ViewState
and post messages. They may import `tui.tables` and `tui.widgets`, never `tui.app`.
"""
