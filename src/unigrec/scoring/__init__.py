"""Lists for all users at once, on the cores of this machine or on Spark."""
