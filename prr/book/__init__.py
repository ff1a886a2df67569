"""The book: chapters are executed, rendered as HTML, and their results recorded as editions."""
