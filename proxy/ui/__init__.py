"""The page at `/`: static files and the two ways they are handed out. Talks to the proxy over HTTP alone."""
