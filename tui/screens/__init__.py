"""One module for each view of the screen, and the panels laid over a view.

`view` is the frame that all views share: top line, banner, body, filter. Keys that all views have
are in `tui.acts.trial_keys`, those of pages with curves in `tui.curves.page`. `panel` holds the
kinds of panels, `asking` the panels with their text. The app composes these screens; they read its
ViewState and post messages. They may import `tui.tables` and `tui.widgets`, never `tui.app`.
"""
