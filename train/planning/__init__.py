"""What a run would take of machines that are not here, and whether it fits those that are."""
