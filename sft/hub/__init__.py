"""What reaches the Hub: a journal of what to push, the process that pushes it, and the model card.

`settings` says where and when, `outbox` keeps the journal, `select` names the files, `client` and
`problems` speak with the Hub, `deliver` pushes, `background` runs that beside training, `card` writes
the README. Nothing here imports torch, and training never waits for any of it.
"""
