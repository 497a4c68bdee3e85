"""What reaches the Hub: an outbox of what to push, the process that delivers it, and the model card.

`settings` says where and when. Asking: `outbox` is the door, `select` names the files, `snapshot` holds them,
`journal` keeps the list. Delivering: `client` and `problems` speak with the Hub, `upload` brings one push, `deliver`
all of them, `background` beside training and `watch` on a login node. `card` writes the README. Nothing here imports
torch, and training never waits for any of it.
"""
