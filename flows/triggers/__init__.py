"""What starts, wakes and answers flows from outside."""
