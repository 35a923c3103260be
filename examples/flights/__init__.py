"""Will this departing flight arrive more than 15 minutes late?"""
