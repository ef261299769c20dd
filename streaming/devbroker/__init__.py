"""The dev broker: one small Kafka broker for one machine, with the real wire protocol and a log on disk.

Read it in the order of a message: ``server`` (a connection), ``wire`` (a frame), ``apis`` (which request goes where),
``produce`` (in), ``log`` and ``segment`` (at rest), ``fetch`` (out); then ``groups`` and ``offsets`` (who has read
what).
"""
