"""Requests that the user makes of the engine, for one trial or many, and their undoing.

`trial_keys` are the keys with which every view asks, `acting` is the part of the app that answers,
`undo` knows the request that reverts another. Called by `tui.app` and the frame of views; it may
import the screens, `tui.messages` and `workbench.service`, never the app itself.
"""
