"""Published results reproduced, and inloop side by side with what a user would pick instead."""
