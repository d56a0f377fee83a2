"""The report as a page: HTML, Markdown, CSV and LaTeX."""
