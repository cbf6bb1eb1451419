"""The asyncio shell that both programs share: it awaits, the cores decide."""
