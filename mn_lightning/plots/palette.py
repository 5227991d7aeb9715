"""The colours of all pictures, from Okabe & Ito: people with any colour vision can tell them apart.

Their yellow is left out: it is too pale for a line.
"""

BLACK = "#000000"
BLUE = "#0072B2"
GREEN = "#009E73"
ORANGE = "#E69F00"
PURPLE = "#CC79A7"
SKY_BLUE = "#56B4E9"
VERMILION = "#D55E00"

GREY = "#666666"
LIGHT_GREY = "#C8C8C8"
