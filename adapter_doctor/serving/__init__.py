"""What serving engines will make of an adapter: its traits, what each engine's profile says to them, what to type."""
