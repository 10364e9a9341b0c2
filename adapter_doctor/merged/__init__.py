"""Does a merged model contain an adapter: the updates that belong in it, and what is found in their place."""
