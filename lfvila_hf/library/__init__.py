"""Looking at what a model found: plots, and (as it grows) the index, the search and the page."""
