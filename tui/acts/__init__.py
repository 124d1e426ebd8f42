"""What the user asks for: requests to the engine, for one trial or many, and their undoing.

`undo` knows the request that reverts another, `batches` sends requests and collects their answers,
`acting` is the part of the app that handles both. Called by `tui.app`; it may import the screens,
`tui.messages` and `workbench.service`, never the app itself.
"""
