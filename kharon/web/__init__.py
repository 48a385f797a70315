"""Pages for a browser, made of a queue's log: `kharon.web.report`. Nothing here serves them."""
