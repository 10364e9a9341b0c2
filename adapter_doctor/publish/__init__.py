"""Publishing an adapter: what would be sent, whether it may be, and the sending itself."""
