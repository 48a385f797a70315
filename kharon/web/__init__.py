"""Pages for a browser, made from a queue's log: `kharon.web.report`. This package serves nothing."""
