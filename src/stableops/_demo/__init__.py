"""What ``python -m stableops`` shows, in pieces that the examples use too.

- `table`: losses as people write them, beside stableops' own
- `lenet`: a convolutional network, forward and backward
- `training`: its training, step by step
- `page`: a made-up page of real digits
- `windows`: what slides over the page, and what a network learns from
- `detect`: digits found on the page, by the network and non-maximum suppression
- `picture`: the page with what was found, as pixels
- `progress`: a line that tells how the training goes
- `tour`: all of it, in order
"""
