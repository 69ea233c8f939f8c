"""One self-contained HTML file that says whether a fitted density can be trusted, and shows why."""
