"""What is measured. Each module yields samples of one turn."""
