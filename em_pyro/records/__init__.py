"""What the records of all rooms are made by."""
