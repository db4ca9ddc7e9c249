"""Answers for programs, of whatever dialect: from :class:`.order.CompletionOrder` to events."""
