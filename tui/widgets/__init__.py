"""The widgets that screens are made of: a list of rows, boxes of lines, a chart, the frame's lines.

Each repaints only the lines that changed, because a slow SSH line pays for every byte. Widgets
speak to their screen by message. They may import `tui.paint`, `tui.chart` and Textual, never
`tui.screens` or `tui.app`.
"""
