"""What a user of Evenly imports and runs. It talks to the two programs, and never imports them."""
