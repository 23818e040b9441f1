"""Small drawn pictures with CIFAR-10's ten classes, for runs without the real images.

A picture is a scene in layers: a setting (sky, street, meadow, room ...), one subject, sometimes
something in front of it, and last the camera (light, colour cast, blur, noise). Classes share
settings, paints and coats, so that shape decides and colour does not.

Subjects are data: each line of a drawing is one shape, painted over the ones above it::

    [?chance | &] [pair] shape colour[*brightness] point point ...

``poly`` (corners), ``blob`` (a smooth outline through points), ``limb`` (a curve; its points are
x,y,width), ``oval`` (centre, radii) and ``box`` (two corners) lie within -1 to 1, x to the right,
y down, subjects facing right. ``pair`` draws the shape and its mirror image, ``?.3`` draws it in
30% of the pictures, ``&`` whenever the line above was drawn. ``at x,y,scale`` moves and scales the
lines below it; ``spin`` in the first line lets the subject be turned far round. A brightness above
1 mixes in white, below 1 black.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import cos, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cifar_utils.errors import ParameterError

VERSION = 1  # raised whenever the pictures change, so that results on them are not mixed up
SIZE = 32
SCALE = 4  # drawing happens on a grid this many times finer

Colour = tuple[int, ...]

BLACK, WHITE = (20, 20, 24), (242, 242, 238)
EARTHS = ((150, 124, 88), (120, 100, 78), (186, 166, 130), (96, 84, 70))
GREENS = ((92, 122, 56), (66, 96, 44), (130, 140, 74), (110, 116, 84), (48, 70, 40))
GREYS = ((120, 120, 122), (88, 90, 94), (150, 148, 144), (70, 70, 72))
ROOMS = (
    (186, 170, 150),
    (150, 130, 112),
    (210, 206, 198),
    (110, 96, 96),
    (120, 140, 150),
    (150, 70, 60),
)
SKIES = ((120, 168, 218), (170, 196, 220), (206, 210, 214), (86, 130, 196), (226, 196, 160))
SNOWS = ((226, 230, 236), (204, 210, 220))
WATERS = ((52, 92, 130), (74, 116, 136), (90, 110, 110), (40, 66, 92), (120, 146, 160))

HIDES = ((148, 100, 58), (204, 164, 112), (186, 112, 56), (112, 76, 52), (120, 104, 88))
HORSES = (*HIDES[:4], (72, 52, 38), (46, 42, 44), (222, 212, 198))
COATS = (*HIDES, (72, 52, 38), (228, 218, 202), (46, 42, 44), (132, 128, 126))
SHEETS = ((236, 236, 234), (190, 194, 200), (150, 156, 164))
PAINTS = (*SHEETS, (182, 36, 36), (38, 74, 150), (36, 38, 44), (216, 176, 44), (44, 104, 70),
          (206, 104, 40), (110, 30, 40))  # fmt: skip
PLUMES = ((120, 96, 72), (60, 60, 66), (176, 60, 44), (64, 104, 164), (228, 226, 220),
          (206, 168, 60), (140, 142, 146), (44, 40, 40), (96, 120, 70))  # fmt: skip
SKINS = ((92, 140, 52), (92, 140, 52), (60, 104, 48), (128, 122, 60), (112, 88, 56), (150, 168, 62),
         (84, 84, 60), (180, 84, 40), (58, 120, 110))  # fmt: skip

# What a colour's name in a drawing can stand for; drawn once for each picture.
PALETTES: dict[str, tuple[Colour, ...]] = {
    "bark": COATS[:2],
    "beak": ((214, 160, 50), (60, 56, 52)),
    "black": (BLACK,),
    "cargo": PAINTS,
    "coat": COATS,
    "eye": ((176, 190, 70), (210, 170, 60), (120, 170, 180)),
    "glass": ((52, 66, 82), (120, 140, 156)),
    "hide": HIDES,
    "horn": ((206, 176, 132), (120, 92, 64)),
    "horse": HORSES,
    "iris": ((220, 180, 60), (190, 90, 40)),
    "lamp": ((244, 240, 206), (200, 40, 36)),
    "load": PAINTS,
    "mane": ((40, 32, 28), (90, 60, 40), (220, 200, 164)),
    "paint": PAINTS,
    "plume": PLUMES,
    "rose": ((206, 120, 116),),
    "sail": (WHITE, *PAINTS[:5]),
    "sheet": SHEETS,
    "shirt": PAINTS,
    "skin": SKINS,
    "steel": GREYS,
    "white": (WHITE,),
}

AIRLINER = """
    poly sheet*.7 .25,-.05 -.05,-.05 -.5,-.42 -.35,-.42
    ?.4 limb steel*.6 -.1,.05,.05 -.1,.3,.05
    & oval black -.1,.33 .08,.08
    & limb steel*.6 .65,.05,.05 .65,.3,.05
    & oval black .65,.33 .08,.08
    poly paint -1.02,-.06 -1.18,-.54 -.95,-.54 -.6,-.05
    limb sheet -1.05,-.06,.03 -.5,0,.24 .2,0,.27 .8,.01,.24 1.05,.04,.07
    limb paint -.8,.02,.04 .75,.04,.05
    limb glass -.55,-.05,.04 .7,-.04,.04
    limb glass .86,-.05,.08 .95,-.01,.06
    poly sheet*.85 -.75,-.03 -1.02,.1 -1.14,.1 -.95,-.03
    poly sheet*.75 .3,.05 -.35,.55 -.55,.55 -.25,.05
    limb steel*.7 -.05,.22,.13 .2,.22,.14
"""
JET = """
    spin
    poly sheet*.85 0,-.35 -.95,.22 -.95,.38 0,.12
    poly sheet 0,-.35 .95,.22 .95,.38 0,.12
    pair poly sheet*.9 0,.68 .4,.88 .4,1 0,.92
    pair limb steel*.6 .38,-.2,.1 .38,.05,.1
    limb sheet 0,-1.02,.06 0,-.75,.2 0,0,.23 0,.6,.15 0,1,.05
    limb paint 0,.55,.04 0,.98,.06
    limb glass 0,-.9,.09 0,-.83,.11
"""
FIGHTER = """
    spin
    pair poly paint*.9 0,-.3 .75,.5 .75,.62 0,.66
    pair poly paint*.75 0,.66 .4,.9 .4,1 0,.95
    limb paint 0,-1.1,.03 0,-.7,.16 0,.2,.26 0,.95,.2
    limb glass 0,-.62,.1 0,-.4,.12
    pair oval lamp .5,.42 .08,.08
"""
PROPELLER = """
    poly paint*.8 -.9,-.12 -1.12,-.5 -.86,-.5 -.62,-.1
    limb paint -1,-.05,.06 -.3,.04,.26 .4,.08,.36 .85,.06,.26
    limb sheet -.9,0,.05 .75,.14,.06
    poly glass .05,-.08 .16,-.3 .42,-.3 .6,-.06
    poly sheet*.9 .5,-.32 -.05,-.3 -.42,.2 .15,.18
    poly sheet .4,-.34 .55,-.34 .42,-.52 .1,-.52 -.02,-.32
    limb black .95,-.3,.05 .95,.42,.05
    oval steel .93,.06 .08,.1
    limb steel*.5 .35,.2,.06 .42,.5,.06
    oval black .42,.52 .1,.1
"""
SEDAN = """
    poly paint*.65 -.85,.22 -.8,-.1 -.35,-.48 .4,-.48 .72,-.12 1.08,-.02 1.1,.2
    poly glass*.8 .2,-.42 .36,-.45 .68,-.12 .55,-.1
    poly paint -1,.26 -1,-.02 -.9,-.08 -.62,-.11 -.36,-.42 .26,-.42 .56,-.1 .92,-.02 1,.08 1,.26
    poly glass -.5,-.1 -.32,-.35 -.06,-.35 -.06,-.1
    poly glass .01,-.1 .01,-.35 .23,-.35 .46,-.1
    limb paint*1.4 -.9,-.03,.04 .85,.01,.04
    box paint*.45 -1,.2 1,.28
    oval lamp .93,.07 .07,.06
    oval lamp*.6 -.97,.05 .04,.06
    pair oval black .6,.26 .22,.22
    pair oval steel*1.3 .6,.26 .12,.12
"""
HATCHBACK = """
    poly paint -.95,.28 -1,-.02 -.84,-.48 .1,-.5 .46,-.12 .88,-.02 1,.1 1,.28
    poly glass -.82,-.12 -.74,-.42 -.4,-.43 -.4,-.12
    poly glass -.32,-.12 -.32,-.43 .06,-.43 .34,-.12
    box paint*.45 -.95,.22 1,.3
    oval lamp .92,.09 .08,.06
    oval lamp*.6 -.95,.06 .05,.08
    pair oval black .58,.28 .22,.22
    pair oval steel*1.3 .58,.28 .11,.11
"""
CORNER_VIEW = """
    oval black -.62,.28 .16,.24
    poly paint*.7 -1,.22 -.98,-.12 -.7,-.2 -.42,-.52 .15,-.54 .4,-.12 .42,.46 .2,.46
    poly paint*1.3 -.42,-.52 -.2,-.6 .45,-.58 .15,-.52
    poly glass*.8 -.6,-.18 -.38,-.46 .1,-.47 .3,-.14
    poly glass .15,-.52 .45,-.56 .78,-.14 .36,-.1
    poly paint*1.15 .36,-.1 .78,-.14 .96,.02 .4,.1
    poly paint .4,.08 .96,.02 1,.36 .42,.48
    poly paint*.4 .52,.22 .9,.17 .9,.26 .52,.32
    oval lamp .5,.16 .09,.07
    oval lamp .92,.11 .06,.06
    poly paint*.4 .42,.4 1,.3 1,.38 .42,.5
    oval black .18,.4 .17,.24
    oval steel .16,.4 .09,.14
"""
CAR_FRONT = """
    pair box black .44,.2 .72,.6
    blob paint -.5,-.5 .5,-.5 .72,-.06 .82,.2 .76,.44 -.76,.44 -.82,.2 -.72,-.06
    poly glass -.46,-.44 .46,-.44 .64,-.08 -.64,-.08
    box paint*.5 -.76,.33 .76,.44
    box paint*.35 -.34,.1 .34,.25
    pair oval lamp .58,.14 .15,.1
    box white -.16,.31 .16,.4
"""
CAB = """
    box steel*.4 -1.05,.26 1,.4
    poly paint*.65 .45,.35 .5,-.38 .92,-.38 1.1,0 1.12,.3
    poly paint .38,.36 .38,-.34 .78,-.34 .92,-.03 1.03,.03 1.03,.36
    poly glass .5,-.02 .5,-.26 .74,-.26 .86,-.02
    oval lamp .98,.17 .06,.06
    box steel*1.3 .86,.28 1.06,.38
"""
AXLES = """
    oval black -.84,.4 .19,.19
    oval black -.44,.4 .19,.19
    oval black .68,.4 .19,.19
    oval steel*1.3 -.84,.4 .09,.09
    oval steel*1.3 -.44,.4 .09,.09
    oval steel*1.3 .68,.4 .09,.09
"""
BOX_TRUCK = CAB + """
    poly cargo*1.3 -1.05,-.66 -.9,-.74 .42,-.74 .3,-.66
    box cargo -1.05,-.66 .3,.28
    ?.5 box load -.88,-.4 .12,-.12
    box cargo*.55 -1.05,.18 .3,.28
""" + AXLES  # fmt: skip
DUMPER = CAB + """
    blob bark -.98,-.3 -.5,-.58 .2,-.4 -.4,-.2
    poly cargo -1.12,-.34 .34,-.42 .24,.26 -.92,.26
    limb cargo*.6 -.7,-.32,.06 -.66,.22,.06
    limb cargo*.6 -.35,-.34,.06 -.33,.22,.06
    limb cargo*.6 0,-.36,.06 0,.22,.06
""" + AXLES  # fmt: skip
TANKER = CAB + """
    limb cargo -.82,-.12,.7 .02,-.12,.7
    limb cargo*1.5 -.85,-.26,.1 .05,-.26,.1
    limb cargo*.5 -.4,-.45,.05 -.4,.2,.05
""" + AXLES  # fmt: skip
TRUCK_CORNER = """
    oval black -.7,.46 .14,.22
    oval black -.4,.52 .14,.22
    poly cargo*.7 -1.02,.4 -1,-.62 .12,-.9 .14,.5
    poly cargo .12,-.9 .72,-.78 .72,.1 .14,.2
    poly paint*.7 .02,.62 .02,-.3 .28,-.4 .3,.68
    poly paint .28,-.42 .86,-.36 .92,.5 .3,.68
    poly glass .34,-.34 .82,-.3 .86,.02 .34,.04
    poly glass*.8 .06,-.24 .24,-.32 .24,.02 .06,.06
    poly paint*.4 .42,.16 .8,.13 .82,.32 .42,.37
    oval lamp .38,.42 .07,.08
    oval lamp .86,.34 .06,.07
    poly steel*1.3 .3,.54 .94,.4 .94,.52 .3,.68
    oval black .14,.62 .14,.22
"""
TRUCK_FRONT = """
    box cargo -.64,-.98 .64,.2
    pair box black .34,.4 .62,.84
    pair box black .62,-.3 .78,-.02
    box paint -.6,-.62 .6,.62
    poly glass -.52,-.5 .52,-.5 .56,-.06 -.56,-.06
    box paint*.35 -.3,.06 .3,.4
    box steel*1.3 -.64,.48 .64,.64
    pair oval lamp .46,.32 .11,.09
"""
PERCHED = """
    ?.6 limb bark -1.7,.8,.18 -.4,.62,.15 .6,.66,.13 1.8,.4,.08
    limb beak -.08,.35,.05 -.05,.66,.05
    limb beak .12,.35,.05 .15,.66,.05
    poly plume*.5 -.4,.1 -1,.52 -.86,.68 -.2,.38
    blob plume -.55,.25 -.2,-.22 .22,-.5 .5,-.3 .44,.12 .1,.46
    blob plume*1.45 .36,-.2 .42,.1 .12,.42 0,.3
    oval plume .35,-.48 .26,.24
    poly beak .55,-.58 .88,-.43 .53,-.36
    blob plume*.65 .1,-.2 .08,.14 -.3,.32 -.74,.4 -.3,-.05
    oval black .42,-.54 .06,.06
"""
SOARING = """
    spin
    pair blob plume*.7 .05,-.25 .45,-.42 1.05,-.1 .6,-.02 .1,.2
    pair limb plume*1.3 .15,-.12,.06 .75,-.15,.05
    poly plume*.6 -.06,.3 -.25,.78 .25,.78 .06,.3
    limb plume 0,-.5,.14 0,-.1,.3 0,.35,.14
    oval plume*1.2 0,-.52 .13,.15
    poly beak -.05,-.64 0,-.82 .05,-.64
"""
FLAPPING = """
    blob plume*.55 .22,-.05 .15,-.5 -.3,-1 -.3,-.35
    poly plume*.7 -.5,.05 -1.02,-.06 -1.02,.22 -.4,.16
    limb plume -.55,.1,.1 0,.08,.34 .45,0,.2
    oval plume .55,-.04 .16,.14
    poly beak .66,-.11 .94,0 .66,.06
    blob plume*.75 .28,.02 .3,-.45 -.1,-1.08 -.28,-.5 -.34,.06
    limb plume*1.4 -.3,.17,.06 .3,.14,.1
    oval black .6,-.07 .04,.04
"""
WADER = """
    limb beak -.12,.2,.08 -.06,.55,.06 -.26,.95,.06 -.1,.96,.05
    limb beak .06,.2,.08 .14,.55,.06 .12,.97,.06 .3,.98,.05
    limb plume*1.2 .2,0,.3 .5,-.2,.18 .34,-.5,.14 .5,-.82,.14
    blob plume -.85,.15 -.4,-.24 .2,-.2 .38,.08 0,.36 -.45,.3
    blob plume*.6 -.95,.22 -.4,-.18 .08,-.08 -.3,.22
    oval plume .54,-.84 .15,.12
    poly beak .62,-.91 1.02,-.76 .62,-.77
    oval black .57,-.86 .04,.04
"""
BIRD_HEAD = """
    limb plume -.45,1.5,1 -.3,.7,.75 0,.1,.6
    limb plume*.6 -.75,1.5,.4 -.6,.6,.25 -.35,.1,.1
    oval plume .05,-.25 .5,.45
    oval plume*1.5 .25,.02 .22,.2
    poly beak .42,-.42 1.12,-.12 .42,.08
    poly beak*.6 .42,-.12 1.1,-.12 .42,.1
    oval white .2,-.35 .13,.13
    oval black .22,-.35 .09,.09
"""
STANDING = """
    limb coat*.7 -.5,0,.28 -.56,.4,.16 -.47,.74,.14
    limb coat*.7 .5,0,.26 .5,.4,.15 .56,.74,.14
    limb coat -.6,0,.46 -.1,.02,.44 .42,-.02,.5
    limb coat*1.3 -.45,.16,.12 .3,.18,.16
    limb coat -.52,.05,.32 -.66,.4,.18 -.56,.78,.15
    limb coat .3,0,.28 .26,.4,.17 .32,.78,.16
    limb coat .4,-.05,.46 .66,-.36,.36
"""
SITTING = """
    blob coat -.5,.88 -.62,.45 -.28,-.15 .15,-.45 .48,-.1 .4,.88
    oval coat*.75 -.25,.6 .33,.3
    blob coat*1.4 .2,-.2 .46,-.05 .42,.35 .22,.3
    limb coat*.8 .1,.15,.2 .12,.85,.16 .22,.9,.14
    limb coat .32,.1,.2 .35,.85,.16 .46,.9,.14
"""
LYING = """
    limb coat*.75 .2,.5,.2 .85,.58,.16
    blob coat -.95,.6 -.9,.15 -.5,-.05 .1,-.02 .55,.1 .6,.6
    oval coat*.8 -.6,.42 .34,.22
    limb coat*1.3 .3,.5,.22 .95,.64,.16
    limb coat .35,.3,.46 .5,0,.4
"""
TABBY = """
    ?.35 limb coat*.45 -.5,-.15,.06 -.46,.16,.05
    & limb coat*.45 -.28,-.15,.06 -.24,.18,.05
    & limb coat*.45 -.06,-.16,.06 -.02,.18,.05
    & limb coat*.45 .16,-.18,.06 .2,.14,.05
"""
CAT_HEAD = """
    poly coat*.75 -.24,-.1 -.18,-.52 .08,-.2
    poly coat*.75 .02,-.2 .24,-.52 .28,-.1
    oval coat 0,0 .31,.27
    oval coat*1.6 .14,.11 .17,.12
    oval rose .18,.06 .05,.04
    oval eye .02,-.04 .065,.06
    oval eye .24,-.04 .055,.06
    oval black .03,-.04 .03,.055
    oval black .245,-.04 .03,.055
"""
DOG_HEAD = """
    oval coat 0,0 .29,.26
    limb coat*1.15 .08,.05,.28 .44,.12,.2
    oval black .53,.05 .075,.065
    oval black .14,-.08 .05,.05
    limb coat*.4 .3,.19,.03 .5,.19,.03
"""
CAT_TAIL_UP = "limb coat*.7 -.7,-.1,.13 -1.05,-.2,.13 -1.12,-.7,.12 -.95,-.92,.1"
CAT_TAIL_ROUND = "limb coat*.7 -.5,.7,.14 -.95,.65,.13 -1,.25,.1"
DOG_TAIL_UP = "limb coat -.7,-.1,.16 -.95,-.3,.14 -1.02,-.62,.07"
DOG_TAIL_ROUND = "limb coat -.5,.65,.16 -.9,.5,.14 -1,.35,.08"
FLOPPY = "blob coat*.55 -.2,-.24 .04,-.2 .02,.22 -.14,.34 -.26,.2"
PRICKED = "poly coat*.65 -.22,-.1 -.1,-.5 .06,-.18"
CAT_FACE = """
    blob coat*.8 -.8,1.6 -.5,.4 .5,.4 .8,1.6
    oval coat*1.5 0,.8 .26,.36
    pair poly coat*.75 .6,-.05 .6,-.9 .06,-.46
    pair poly rose .5,-.3 .52,-.7 .26,-.46
    oval coat 0,0 .63,.54
    ?.35 pair limb coat*.5 .16,-.5,.07 .12,-.28,.05
    & pair limb coat*.5 .6,.02,.06 .44,.06,.05
    & limb coat*.5 0,-.5,.08 0,-.26,.05
    ?.4 limb coat*1.7 0,-.45,.1 0,.1,.2
    pair oval eye .26,-.05 .14,.12
    pair oval black .26,-.05 .06,.11
    pair oval coat*1.6 .13,.25 .19,.15
    poly rose -.09,.12 .09,.12 0,.22
    pair limb white .25,.26,.03 .85,.2,.02
    pair limb white .25,.3,.03 .82,.4,.02
"""
DOG_FACE = """
    blob coat*.8 -.8,1.6 -.5,.5 .5,.5 .8,1.6
    oval coat*1.5 0,.95 .26,.36
    oval coat 0,0 .5,.6
    ?.4 limb coat*1.7 0,-.5,.14 0,.1,.2
    ?.25 oval coat*.5 .22,-.1 .2,.22
    pair oval black .22,-.1 .09,.09
    oval coat*1.4 0,.3 .28,.3
    ?.35 oval rose 0,.6 .11,.18
    limb coat*.35 -.16,.46,.04 0,.4,.04 .16,.46,.04
    oval black 0,.18 .15,.11
"""
DOG_EARS = "pair blob coat*.55 .26,-.56 .62,-.5 .8,.2 .6,.42 .44,-.1"
DOG_PRICKS = "pair poly coat*.65 .5,-.1 .52,-.9 .1,-.5"
GRAZER = """
    limb horse*.65 -.5,0,.26 -.54,.45,.13 -.42,.95,.1
    limb horse*.65 .42,0,.22 .5,.45,.12 .42,.95,.1
    limb horse -.58,-.04,.46 -.1,0,.42 .38,-.04,.48
    limb horse -.56,0,.32 -.7,.42,.14 -.62,.97,.11
    limb horse .3,0,.26 .26,.45,.13 .34,.97,.11
"""
HORSE_UP = """
    limb mane -.7,-.16,.1 -.95,0,.19 -.98,.35,.17 -.9,.66,.05
""" + GRAZER + """
    limb horse .34,-.05,.46 .52,-.4,.34 .68,-.76,.22
    limb mane .14,-.26,.12 .36,-.55,.19 .58,-.86,.12
    poly horse .56,-.76 .58,-1 .72,-.78
    limb horse .66,-.76,.25 1.02,-.5,.15
    oval horse*.5 1.03,-.49 .09,.08
    oval black .74,-.76 .04,.04
    ?.3 box load -.24,-.28 .12,-.12
    & limb shirt -.06,-.24,.26 -.02,-.72,.24
    & oval rose -.02,-.95 .13,.14
    & limb shirt*.5 -.04,-.18,.16 .1,.24,.1
    & limb shirt .02,-.65,.1 .36,-.42,.08
"""  # fmt: skip
HORSE_DOWN = """
    limb mane -.7,-.16,.1 -.95,0,.19 -.98,.35,.17 -.9,.66,.05
""" + GRAZER + """
    limb horse .36,-.05,.46 .68,.1,.34 .86,.4,.22
    limb mane .36,-.26,.1 .7,-.1,.15 .92,.28,.1
    limb horse .86,.38,.23 .94,.78,.15
    oval horse*.5 .95,.82 .09,.08
"""  # fmt: skip
HORSE_HEAD = """
    limb horse -.8,1.4,1.2 -.45,.5,.88 -.05,-.45,.5
    limb mane -1.3,1,.3 -.84,.2,.34 -.44,-.4,.3 -.1,-.74,.16
    poly horse -.22,-.6 -.12,-1 .08,-.62
    limb horse -.05,-.45,.54 .3,-.1,.42 .62,.32,.32
    oval horse*.55 .64,.33 .17,.16
    oval black .72,.28 .05,.05
    oval black .1,-.4 .08,.07
    ?.5 limb white 0,-.56,.06 .34,-.22,.11 .6,.08,.06
    ?.5 limb load .26,.12,.06 .56,-.1,.06
    & limb load -.18,-.12,.06 .35,.04,.06
"""
ANTLERS = """
    pair limb horn .05,.02,.1 .34,-.25,.09 .4,-.55,.08 .28,-.82,.05
    pair limb horn .34,-.25,.08 .62,-.5,.05
    pair limb horn .4,-.52,.08 .64,-.76,.05
    pair limb horn .28,-.2,.07 .16,-.48,.05
"""
DEER_BODY = """
    at 0,.28,.85
    limb hide*.65 -.5,0,.2 -.54,.45,.1 -.42,.9,.08
    limb hide*.65 .4,0,.18 .46,.45,.1 .4,.9,.08
    limb white -.62,-.14,.14 -.86,.04,.12
    limb hide -.58,-.04,.38 -.1,0,.34 .36,-.04,.38
    limb hide*1.5 -.42,.12,.1 .3,.13,.1
    limb hide -.56,0,.25 -.68,.42,.11 -.62,.92,.09
    limb hide .28,0,.2 .24,.45,.1 .32,.92,.09
"""
STAG = DEER_BODY + """
    limb hide .32,-.05,.36 .5,-.36,.25 .62,-.66,.19
    limb hide*1.5 .46,-.1,.1 .6,-.4,.1
    limb hide*.75 .58,-.66,.14 .32,-.76,.06
    limb hide .6,-.68,.21 .9,-.54,.12
    oval black .93,-.52 .06,.05
    oval black .68,-.7 .04,.04
"""  # fmt: skip
STAG_UP = STAG + "at .52,-.32,.72" + ANTLERS
DOE = STAG + "limb hide*.75 .6,-.7,.14 .5,-.98,.06"
STAG_FRONT = """
    at 0,.3,.9
    limb hide*.75 0,1.4,1 -.1,.8,.66 0,.2,.46
    limb hide*1.5 -.02,.9,.2 0,.5,.24
    pair blob hide*.8 .18,-.16 .5,-.32 .76,-.16 .4,.04
    pair blob rose .32,-.14 .5,-.23 .64,-.15 .4,-.04
    limb hide 0,-.1,.48 0,.2,.4 0,.52,.26
    oval white 0,.52 .17,.13
    oval black 0,.46 .12,.09
    pair oval black .18,.05 .07,.07
    at 0,.12,1.05
""" + ANTLERS  # fmt: skip
FROG_SIDE = """
    blob skin -.85,.45 -.55,-.05 .1,-.36 .55,-.4 1,-.08 .7,.28 .1,.5
    blob skin*1.6 .97,0 .68,.28 .1,.48 .3,.2
    limb skin*.5 .97,-.04,.05 .6,.07,.06 .4,.02,.04
    limb skin*.7 .35,.2,.2 .45,.5,.14 .4,.66,.12 .68,.69,.09
    blob skin*.8 -.85,.5 -.64,.05 -.15,.1 .06,.36 -.3,.62
    limb skin*.65 -.72,.62,.15 -.2,.69,.11 .12,.69,.09
    oval skin .5,-.42 .21,.19
    oval iris .54,-.43 .14,.13
    oval black .56,-.43 .09,.07
"""
FROG_ABOVE = """
    spin
    pair limb skin*.75 .25,.4,.28 .82,.1,.24 .72,.72,.17 .98,.92,.12
    pair limb skin*.75 .3,-.3,.19 .68,-.38,.15 .82,-.7,.12
    blob skin 0,.7 -.34,.5 -.46,-.1 -.34,-.6 0,-.9 .34,-.6 .46,-.1 .34,.5
    ?.5 limb skin*1.6 0,-.7,.12 0,.6,.08
    pair oval iris .31,-.52 .16,.17
    pair oval black .33,-.54 .09,.1
"""
FROG_FRONT = """
    pair blob skin*.65 .3,.62 .5,.05 .96,.2 1,.62 .6,.74
    blob skin -.6,.66 -.72,.05 -.5,-.32 .5,-.32 .72,.05 .6,.66
    blob skin*1.6 -.44,.24 0,.12 .44,.24 .3,.62 -.3,.62
    pair limb skin*.8 .38,.3,.18 .42,.68,.14 .68,.77,.1
    pair oval skin .44,-.36 .23,.22
    pair oval iris .45,-.38 .15,.15
    pair oval black .45,-.38 .1,.06
    limb skin*.4 -.62,0,.06 0,.15,.07 .62,0,.06
"""
SPOTS = """
    ?.5 oval skin*.5 -.35,.05 .1,.08
    & oval skin*.5 -.08,-.12 .09,.07
    & oval skin*.5 .1,.12 .1,.08
    & oval skin*.5 -.15,.28 .08,.07
"""
SAILBOAT = """
    limb steel*.6 .02,.4,.05 .02,-1.08,.04
    poly sail -.04,-1.02 -.04,.24 -.72,.25
    poly sail*.8 .08,-.88 .08,.22 .82,.25
    poly paint -.82,.34 .98,.28 .72,.62 -.66,.62
    limb white -.72,.38,.05 .88,.34,.05
"""
HULL = """
    poly paint -1.02,.1 .6,.12 1.14,-.02 .86,.58 -.94,.58
    poly load*.7 -.96,.45 .93,.45 .86,.58 -.94,.58
    limb steel*.6 .78,.1,.05 .78,-.34,.03
"""
LINER = """
    poly sheet -.84,.12 -.72,-.22 .52,-.22 .72,.12
    poly sheet*1.5 -.66,-.22 -.56,-.42 .3,-.42 .42,-.22
    limb glass -.7,-.06,.06 .58,-.06,.06
    limb glass -.55,-.3,.06 .28,-.3,.06
    poly load -.3,-.42 -.28,-.72 -.08,-.72 -.02,-.42
    limb steel*.6 .2,-.42,.04 .2,-.8,.03
""" + HULL  # fmt: skip
FREIGHTER = """
    box cargo -.45,-.14 -.22,.14
    box load -.2,-.3 .02,.14
    box shirt .04,-.2 .26,.14
    box cargo*.8 .28,-.06 .5,.14
    box sheet -.92,-.45 -.52,.14
    limb glass -.86,-.34,.07 -.58,-.34,.07
    box load -.84,-.68 -.66,-.45
    limb steel*.6 -.55,-.45,.04 -.55,-.85,.03
""" + HULL  # fmt: skip
MOTORBOAT = """
    poly sheet -.55,.16 -.42,-.32 .2,-.32 .42,.16
    poly glass -.1,.02 -.08,-.22 .16,-.22 .3,.02
    box sheet*.8 -.5,-.4 .26,-.3
    limb steel*.6 -.3,-.4,.05 -.3,-.85,.03
    poly paint -.98,.16 .5,.12 1.15,-.02 .74,.56 -.88,.58
    limb white -.9,.24,.06 .95,.12,.05
"""
BOW = """
    box sheet -.44,-.56 .44,.1
    box glass -.36,-.42 .36,-.25
    poly load -.2,-.56 -.16,-.78 .16,-.78 .2,-.56
    limb steel*.6 .3,-.5,.05 .32,-.98,.03
    blob paint -.74,-.02 0,.1 .74,-.02 .5,.6 0,.7 -.5,.6
    poly paint*.65 0,.06 .72,-.02 .5,.6 0,.68
"""
FOAM = """
    limb white -1.1,.6,.05 -.5,.61,.07
    ?.7 limb white*.9 -.3,.63,.07 .2,.62,.05
    ?.7 limb white*.9 .5,.6,.08 1.1,.62,.05
"""


@dataclass(frozen=True)
class Setting:
    """A place.

    Attributes:
        far: Colours above the horizon.
        near: Colours below it; empty if there is no horizon.
        props: What stands about: ``trees``, ``houses``, ``clouds``, ``leaves`` or ``things``.
        grain: Strength of the texture, 0 to 1.
        stretch: How much wider than tall the texture's patches are.
    """

    far: tuple[Colour, ...]
    near: tuple[Colour, ...]
    props: str
    grain: float
    stretch: int


SETTINGS = {
    "sky": Setting(SKIES, (), "clouds", 0.03, 2),
    "field": Setting(SKIES + GREENS, GREENS + EARTHS, "trees", 0.08, 2),
    "forest": Setting(GREENS + EARTHS, GREENS + EARTHS, "trees", 0.12, 1),
    "leaves": Setting(GREENS + EARTHS + SNOWS, (), "leaves", 0.1, 1),
    "street": Setting(SKIES + GREYS, GREYS + EARTHS, "houses", 0.06, 3),
    "hall": Setting(ROOMS + GREYS + SNOWS, GREYS + ROOMS, "houses", 0.03, 2),
    "room": Setting(ROOMS, ROOMS + EARTHS, "things", 0.06, 1),
    "ground": Setting(EARTHS + GREYS + GREENS, (), "things", 0.09, 1),
    "water": Setting(SKIES + GREENS[-1:], WATERS, "clouds", 0.1, 4),
    "pond": Setting(WATERS + GREENS, (), "leaves", 0.08, 3),
    "snow": Setting(SKIES + GREENS[-2:], SNOWS, "trees", 0.04, 2),
}


@dataclass(frozen=True)
class Scene:
    """How a class is shown.

    Attributes:
        drawings: Its subjects; one is chosen for each picture.
        settings: Where it is seen; likelier places are repeated.
        turn: Standard deviation of its rotation, in degrees.
        warp: How much its build varies, in subject units.
        shadow: Darkness of the shadow it casts, 0 to 1.
    """

    drawings: tuple[str, ...]
    settings: tuple[str, ...]
    turn: float
    warp: float
    shadow: float


def _at(x: float, y: float, *head: str) -> str:
    """Return the drawing of a head, moved to (x, y)."""
    return "\n".join((f"\n    at {x},{y},1", *head))


_CATS = (
    CAT_FACE,
    CAT_FACE,
    CAT_TAIL_UP + STANDING + TABBY + _at(0.66, -0.42, CAT_HEAD),
    CAT_TAIL_ROUND + SITTING + _at(0.16, -0.55, CAT_HEAD),
    CAT_TAIL_ROUND + LYING + _at(0.5, -0.12, CAT_HEAD),
)
_DOGS = (
    DOG_FACE + DOG_EARS,
    DOG_FACE + DOG_EARS,
    DOG_PRICKS + DOG_FACE,
    DOG_TAIL_UP + STANDING + _at(0.66, -0.45, DOG_HEAD, FLOPPY),
    DOG_TAIL_UP + STANDING + _at(0.66, -0.45, PRICKED, DOG_HEAD),
    DOG_TAIL_ROUND + SITTING + _at(0.16, -0.55, DOG_HEAD, FLOPPY),
    DOG_TAIL_ROUND + LYING + _at(0.5, -0.12, DOG_HEAD, FLOPPY),
)
_CARS = (SEDAN, HATCHBACK, CORNER_VIEW, CORNER_VIEW, CAR_FRONT)
_SHIPS = tuple(
    ship + FOAM for ship in (SAILBOAT, SAILBOAT, LINER, LINER, FREIGHTER, FREIGHTER, MOTORBOAT, BOW)
)
_TRUCKS = (BOX_TRUCK, BOX_TRUCK, DUMPER, TANKER, TRUCK_CORNER, TRUCK_CORNER, TRUCK_FRONT)
_ROADS = ("street", "street", "street", "street", "hall", "field", "snow")

# In the order of CIFAR-10's labels, 0 to 9.
SCENES = {
    "airplane": Scene((AIRLINER, AIRLINER, JET, FIGHTER, PROPELLER),
                      ("sky", "sky", "sky", "sky", "street", "field"), 12, 0.07, 0),
    "automobile": Scene(_CARS, _ROADS, 4, 0.07, 0.6),
    "bird": Scene((PERCHED, PERCHED, SOARING, FLAPPING, WADER, BIRD_HEAD),
                  ("sky", "leaves", "leaves", "leaves", "field", "ground", "snow"), 8, 0.07, 0),
    "cat": Scene(_CATS, ("room", "room", "room", "room", "field", "ground"), 8, 0.07, 0.5),
    "deer": Scene((STAG_UP, STAG_UP, STAG_UP, DOE, STAG_FRONT, STAG_FRONT),
                  ("forest", "forest", "forest", "field", "field", "snow", "leaves"), 5, 0.07, 0.4),
    "dog": Scene(_DOGS, ("room", "room", "field", "field", "ground", "snow"), 8, 0.07, 0.5),
    "frog": Scene((FROG_SIDE + SPOTS, FROG_ABOVE + SPOTS, FROG_FRONT),
                  ("leaves", "leaves", "leaves", "pond", "pond", "ground"), 10, 0.07, 0.5),
    "horse": Scene((HORSE_UP, HORSE_UP, HORSE_UP, HORSE_DOWN, HORSE_HEAD),
                   ("field", "field", "field", "field", "forest", "street", "snow"), 5, 0.07, 0.4),
    "ship": Scene(_SHIPS, ("water",), 4, 0.07, 0.4),
    "truck": Scene(_TRUCKS, _ROADS, 4, 0.07, 0.6),
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One polygon of a drawing: which of the drawing's corners it has, and how to paint it."""

    corners: slice
    colour: str
    brightness: float
    chance: float | None  # None: drawn if the shape before it was


_CIRCLE = np.array([(cos(angle), sin(angle)) for angle in np.linspace(0, 2 * np.pi, 20, False)])


def _curve(points: np.ndarray, closed: bool) -> np.ndarray:
    """Return a Catmull-Rom curve through ``points`` (n, d), four steps from each to the next."""
    if closed:
        ring = points
    else:  # go on straight beyond both ends
        ends = 2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1]
        ring = np.concatenate([ends[0], points, ends[1]])
    a, b, c, d = (np.roll(ring, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    t = np.linspace(0, 1, 4, endpoint=False)[:, None]
    curve = b + t * ((c - a) + t * ((2 * a - 5 * b + 4 * c - d) + t * (3 * (b - c) + d - a))) / 2
    flat = curve.reshape(-1, points.shape[1])
    return flat if closed else np.concatenate([flat[4 : 4 * len(points)], points[-1:]])


def _outline(kind: str, points: np.ndarray) -> np.ndarray:
    """Return the corners (n, 2) of a shape from the points that a drawing gives for it."""
    if kind == "blob":
        return _curve(points, closed=True)
    if kind == "oval":
        return points[0] + _CIRCLE * points[1]
    if kind == "box":
        (left, top), (right, bottom) = points
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    if kind == "limb":
        curve = _curve(points, closed=False) if len(points) > 2 else points
        middle, half = curve[:, :2], curve[:, 2:]
        along = np.concatenate(
            [middle[1:2] - middle[:1], middle[2:] - middle[:-2], middle[-1:] - middle[-2:-1]]
        )
        along *= half / 2 / np.hypot(*along.T)[:, None]
        side = along[:, ::-1] * (-1, 1)
        ends = middle[:1] - along[:1], middle[-1:] + along[-1:]
        return np.concatenate([ends[0], middle + side, ends[1], (middle - side)[::-1]])
    return points


@cache
def _parse(drawing: str) -> tuple[np.ndarray, tuple[Shape, ...]]:
    """Return a drawing's corners, float64 (n, 2) in subject units, and its shapes, lowest first."""
    corners, shapes, total = [], [], 0
    place, scale = np.zeros(2), 1.0
    for line in drawing.splitlines():
        words = line.split()
        if words[:1] == ["at"]:
            x, y, scale = map(float, words[1].split(","))
            place = np.array((x, y))
        if not words or words[0] in ("at", "spin"):
            continue
        chance: float | None = 1.0
        if words[0][0] in "?&":
            chance = float(words[0][1:]) if words[0] != "&" else None
            words = words[1:]
        pair = words[0] == "pair"
        kind, colour, *points = words[pair:]
        name, _, brightness = colour.partition("*")
        outline = _outline(kind, np.array([point.split(",") for point in points], dtype=float))
        for side in (1, -1) if pair else (1,):
            corners.append(place + scale * outline * (side, 1))
            here = slice(total, total + len(outline))
            shapes.append(Shape(here, name, float(brightness or 1), chance if side == 1 else None))
            total += len(outline)
    return np.concatenate(corners), tuple(shapes)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    """Return ``colour`` with ``share`` (0 to 1) of ``other`` in it."""
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))


def _pick(rng: np.random.Generator, palette: tuple[Colour, ...]) -> Colour:
    """Return a colour of ``palette``, lightened or darkened and shifted a little."""
    base = palette[int(rng.random() * len(palette))]
    light, *shift = (rng.standard_normal(4) * (18, 5, 5, 5)).tolist()
    return tuple(min(max(round(a + light + b), 8), 248) for a, b in zip(base, shift, strict=True))


class Layer:
    """Transparent paper to draw on, in units that ``matrix`` and ``origin`` take to pixels."""

    def __init__(self, matrix: np.ndarray, origin: np.ndarray) -> None:
        self.image = Image.new("RGBA", (SIZE * SCALE, SIZE * SCALE))
        self._paint = ImageDraw.Draw(self.image)
        self._matrix, self._origin = matrix * SCALE, origin * SCALE

    def pixels(self, corners: np.ndarray) -> np.ndarray:
        """Return where ``corners`` (n, 2) are on the paper's fine grid."""
        return corners @ self._matrix + self._origin

    def fill(self, pixels: np.ndarray, colour: Colour) -> None:
        """Fill the polygon with corners at ``pixels`` (n, 2)."""
        self._paint.polygon(pixels.ravel().tolist(), fill=colour)

    def add(self, kind: str, points: Sequence[tuple[float, ...]], colour: Colour) -> None:
        """Draw one shape of the kinds that drawings use."""
        self.fill(self.pixels(_outline(kind, np.array(points))), colour)

    def over(self, picture: np.ndarray, light: np.ndarray | float = 1.0) -> np.ndarray:
        """Return ``picture`` (SIZE, SIZE, 3) under this layer, whose colours ``light`` scales."""
        pixels = np.asarray(self.image.convert("RGBa").reduce(SCALE), dtype=float)
        return picture * (1 - pixels[..., 3:] / 255) + pixels[..., :3] * light

    def outline(self) -> Image.Image:
        """Return how much of each pixel is covered, as a greyscale image."""
        return self.image.getchannel("A").reduce(SCALE)


@cache
def _stretch(cells: int) -> np.ndarray:
    """Return the (SIZE, cells) matrix that blows ``cells`` values up smoothly."""
    place = np.linspace(0, cells - 1, SIZE)[:, None] - np.arange(cells)
    share = np.clip(1 - abs(place), 0, 1)
    return share * share * (3 - 2 * share)


def _noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return smooth noise (SIZE, SIZE, 1) of unit variance at its ``rows`` x ``columns`` nodes."""
    return (_stretch(rows) @ rng.standard_normal((rows, columns)) @ _stretch(columns).T)[..., None]


def _subject(rng: np.random.Generator, scene: Scene) -> Layer:
    """Return one of the scene's subjects: placed, sized, turned, mirrored, slanted and warped."""
    drawing = scene.drawings[rng.integers(len(scene.drawings))]
    spin = drawing.lstrip().startswith("spin")
    turn = np.deg2rad(rng.uniform(-110, 110) if spin else rng.normal(0, scene.turn))
    slant = np.array([(rng.uniform(0.85, 1.05), 0), (rng.normal(0, 0.06), rng.uniform(0.9, 1.08))])
    matrix = slant @ np.array([(cos(turn), sin(turn)), (-sin(turn), cos(turn))])
    matrix *= SIZE * rng.uniform(0.4, 0.54) * np.array((rng.choice((-1, 1)), 1))
    layer = Layer(matrix, SIZE * (0.5 + rng.normal(0, (0.06, 0.045))))
    wave, phase = rng.normal(0, 1.6, (2, 2)), rng.uniform(0, 2 * np.pi, 2)
    corners, shapes = _parse(drawing)
    pixels = layer.pixels(corners + scene.warp * np.sin(corners @ wave + phase))
    rolls, shades = rng.random(len(shapes)), rng.normal(-1, 0.05, len(shapes))
    colours: dict[str, Colour] = {}
    drawn = True
    for shape, roll, shade in zip(shapes, rolls.tolist(), shades.tolist(), strict=True):
        drawn = drawn if shape.chance is None else roll < shape.chance
        if drawn:
            if shape.colour not in colours:
                colours[shape.colour] = _pick(rng, PALETTES[shape.colour])
            share = shape.brightness + shade
            tone = _mix(colours[shape.colour], WHITE if share > 0 else BLACK, min(abs(share), 0.9))
            layer.fill(pixels[shape.corners], tone)
    return layer


def _image(picture: np.ndarray) -> Image.Image:
    """Return a picture (SIZE, SIZE, 3) of numbers around 0 to 255 as an 8-bit image."""
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _background(rng: np.random.Generator, setting: Setting) -> np.ndarray:
    """Return a place without its subject, float64 (SIZE, SIZE, 3), 0 to 255."""
    layer = Layer(np.eye(2) * SIZE, np.zeros(2))
    far = _pick(rng, setting.far)
    deep = _mix(far, _pick(rng, setting.far), 0.4)
    horizon = rng.uniform(0.25, 0.65) if setting.near else 1.0
    for step in (0, 0.25, 0.5, 0.75):
        layer.add("box", [(-1, step * horizon), (2, 2)], _mix(far, deep, step))
    for _ in range(rng.integers(0, 7)):
        _prop(layer, rng, setting.props, far, horizon)
    if setting.near:
        near, front, slope = _pick(rng, setting.near), _pick(rng, setting.near), rng.normal(0, 0.03)
        for step in (0, 0.25, 0.5, 0.75):
            y = horizon + (1 - horizon) * step
            band = [(0, y - slope), (1, y + slope), (1, 2), (0, 2)]
            layer.add("poly", band, _mix(near, front, step / 2))
    texture = _noise(rng, 9, 9 // setting.stretch + 1) + _noise(rng, 24, 24 // setting.stretch)
    place = np.asarray(layer.image.convert("RGB").reduce(SCALE)) * (1 + setting.grain * texture)
    blur = ImageFilter.GaussianBlur(rng.uniform(0.5, 1.8))
    return np.asarray(_image(place).filter(blur), dtype=float)


def _prop(layer: Layer, rng: np.random.Generator, kind: str, far: Colour, horizon: float) -> None:
    """Draw one of the things that stand about in a setting."""
    x, y, size = rng.uniform((-0.1, 0, 0.08), (1.1, 1, 0.3))
    plants = GREENS + EARTHS
    palette = {"clouds": SNOWS, "trees": plants, "leaves": plants}.get(kind, ROOMS + GREYS)
    colour = _mix(_pick(rng, palette), far, rng.uniform(0.1, 0.6))
    if kind == "trees":
        trunk = [(x, horizon + 0.1, size * 0.3), (x, horizon - size, size * 0.2)]
        layer.add("limb", trunk, _mix(colour, BLACK, 0.4))
        for dx, dy, radius in rng.uniform((-0.5, -1.4, 0.3), (0.5, -0.6, 0.7), (3, 3)) * size:
            shade = _mix(colour, BLACK, rng.uniform(0, 0.25))
            layer.add("oval", [(x + dx, horizon + dy), (radius, radius)], shade)
    elif kind == "houses":
        top = horizon - size * (0.5 + 1.6 * y)
        layer.add("box", [(x - size, top), (x + size / 2, horizon + 0.1)], colour)
    elif kind == "clouds":
        layer.add("oval", [(x, y * horizon), (size * 1.4, size * 0.4)], colour)
    elif kind == "leaves":
        layer.add("limb", [(x, y, size), (*rng.uniform(0, 1, 2), size / 5)], colour)
    else:
        layer.add("box", [(x, y), (x + size * 1.5, y + size * rng.uniform(0.5, 2.5))], colour)


def _obstacle(rng: np.random.Generator, setting: Setting) -> Layer:
    """Return something between the camera and the subject: grass, a pole or twig, a close edge."""
    layer = Layer(np.eye(2) * SIZE, np.zeros(2))
    colour = _mix(_pick(rng, setting.near or setting.far), BLACK, rng.uniform(0, 0.6))
    kind = rng.integers(3)
    if kind == 0:
        for x, bend, top in rng.uniform((0, -0.1, 0.6), (1, 0.1, 0.95), (9, 3)):
            layer.add("limb", [(x, 1.05, 0.06), (x + bend, top, 0.02)], colour)
    elif kind == 1:
        start, end, width = rng.uniform((-0.1, -0.1, 0.03), (1.1, 1.1, 0.08))
        ends = [(start, -0.1), (end, 1.1)] if rng.random() < 0.5 else [(-0.1, start), (1.1, end)]
        layer.add("limb", [(*point, width) for point in ends], colour)
    else:
        angle, size = rng.uniform((0, 0.15), (2 * np.pi, 0.35))
        centre = (0.5 + 0.62 * cos(angle), 0.5 + 0.62 * sin(angle))
        layer.add("oval", [centre, (size, size)], colour)
    return layer


def _lit(
    rng: np.random.Generator, picture: np.ndarray, subject: Layer, shadow: float
) -> np.ndarray:
    """Return ``picture`` with the subject in it, lit from above, its shadow under it."""
    cover = np.asarray(subject.outline(), dtype=float)[..., None] / 255
    swell = np.asarray(subject.outline().filter(ImageFilter.GaussianBlur(2)), dtype=float) / 255
    angle = rng.uniform(0.15, 0.85) * np.pi
    slope = np.gradient(swell, axis=0) * sin(angle) + np.gradient(swell, axis=1) * cos(angle)
    light = 1 + 2 * slope[..., None]
    light = light + rng.uniform(0.02, 0.09) * (_noise(rng, 6, 6) + _noise(rng, 20, 20))
    below = np.pad(swell, ((2, 0), (0, 0)))[:SIZE]  # the shadow falls two pixels lower
    picture = picture * (1 - shadow * below[..., None])
    lit = subject.over(picture, light)
    # Against a background as bright as itself a subject of 25 pixels would be lost.
    gap = ((lit - picture) * cover).sum() / (3 * cover.sum() + 1)
    push = max(rng.uniform(30, 80) - abs(gap), 0) * (-1 if gap > 0 else 1)
    return lit + push * (1 - cover)


def _camera(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Return the photograph of a scene (float64, 0 to 255): uint8 (SIZE, SIZE, 3)."""
    ramp = np.linspace(-1, 1, SIZE)
    tilt = rng.normal(0, 0.1, 2)
    picture = picture * (1 + tilt[0] * ramp[:, None] + tilt[1] * ramp)[..., None]
    grey = picture.mean(axis=2, keepdims=True)
    picture = (grey + (picture - grey) * rng.uniform(0.4, 1.3)) * rng.normal(1, 0.05, 3)
    contrast = min(rng.uniform(46, 74) / (picture.std() + 1), 2)
    picture = rng.uniform(75, 165) + (picture - picture.mean()) * contrast
    blurred = np.asarray(_image(picture).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6))))
    noise = rng.normal(0, rng.uniform(1, 6), (SIZE, SIZE, 3))
    return np.clip(blurred + noise, 0, 255).astype(np.uint8)


def _photograph(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Return one picture of ``scene``, uint8 (SIZE, SIZE, 3)."""
    setting = SETTINGS[scene.settings[rng.integers(len(scene.settings))]]
    picture = _lit(rng, _background(rng, setting), _subject(rng, scene), scene.shadow)
    if rng.random() < 0.2:
        picture = _obstacle(rng, setting).over(picture)
    return _camera(rng, picture)


def _rng(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of one part of the set: independent of those of all other parts."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def generate(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``count`` labelled pictures (notebook 01 shows them).

    Picture ``i`` depends on ``seed`` and ``i`` alone, and each ten pictures from the first on hold
    every class once: a shorter set is the beginning of a longer one, and balanced.

    Args:
        count: How many pictures, 1 or more.
        seed: Which pictures, 0 or more; another seed gives other pictures.

    Returns:
        Images, uint8 (count, 32, 32, 3), RGB; labels, int64 (count,), 0 to 9 as in CIFAR-10.

    Raises:
        ParameterError: ``count`` is below 1 or ``seed`` below 0.
    """
    for name, value, least in (("count", count, 1), ("seed", seed, 0)):
        if value < least:
            raise ParameterError(f"{name} of the synthetic set is {value}; give {least} or more")
    scenes = tuple(SCENES.values())
    images = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    order = np.empty(0, dtype=np.int64)
    for index in range(count):
        block, place = divmod(index, len(scenes))
        if place == 0:
            order = _rng(seed, 0, block).permutation(len(scenes))
        labels[index] = order[place]
        images[index] = _photograph(_rng(seed, 1, index), scenes[order[place]])
    return images, labels
