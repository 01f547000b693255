"""The Berkeley Function-Calling Leaderboard, version 4: its own data and its own checkers."""
