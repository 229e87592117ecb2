"""Held-out text: twenty passages in plain English, of several registers.

They were written for this file, so no model that is older has been trained on them; every user has the same bytes,
whatever the Python version; and they are under the project's licence. Texts of Python's standard library or of licences
would be none of these: they are in every training set, and the library's change with its version. Changing a passage
changes every figure, so :data:`pivot_jax.eval.text.ability.TEXTS_SHA256` is part of each result.
"""

from __future__ import annotations

PASSAGES = (
    "The ferry left the harbour twenty minutes late because a lorry had been parked across the ramp and nobody could "
    "find its driver. When he came back from the bakery with a bag of rolls, the passengers on the upper deck clapped. "
    "He bowed, climbed into the cab, and reversed so carefully that the gulls on the railing did not even turn their "
    "heads.",
    "To sharpen a kitchen knife on a stone, first soak the stone until no more bubbles rise. Hold the blade at an "
    "angle of about fifteen degrees and push it away from you as if you wanted to cut a thin slice off the surface. "
    "After ten strokes, change the side. When you can feel a small burr along the whole edge, continue with the finer "
    "grain.",
    "Marta kept two notebooks. In the green one she wrote what had happened, and in the grey one what should have "
    "happened instead. For years the grey one filled faster. Then, in the winter after she moved to the coast, she "
    "noticed that she had used up three green notebooks in a row and could no longer remember where the other was.",
    "A glacier moves for two reasons. The ice itself deforms under its own weight, slowly, like very stiff honey. And "
    "where water collects between the ice and the rock, the whole mass slides on it. In summer, when meltwater reaches "
    "the bed through deep shafts, the second kind of motion can become several times faster within a few hours.",
    "Dear neighbours, on Thursday morning the water will be turned off in the whole building from nine until about "
    "noon, because the plumber has to replace the main valve in the cellar. Please fill a bucket the evening before. "
    "If you are not at home, make sure that all taps are closed, so that nothing overflows when the water returns.",
    '"You said the bridge was closed," said the cyclist. "It is closed for cars," the old man answered without looking '
    'up from his nets. "And for horses?" The old man thought about it. "Nobody has asked that for a long time," he '
    'said, "but I suppose that a horse would have to pay the same as a bicycle, which is nothing, provided that it '
    'waits for the light."',
    "The function reads the file once and keeps only the positions of the lines, because the text itself may be larger "
    "than the memory of the machine. A later request for line number n then needs a single seek. If the file changes "
    "while it is open, the stored positions are wrong, so the size is compared first and an error is raised when it "
    "differs.",
    "Three friends share a garden of 240 square metres. Anna takes half of it for vegetables. Of what is left, Ben "
    "plants two thirds with berries, and Clara puts a bench and a small pond on the rest. So Anna has 120 square "
    "metres, Ben has 80, and Clara has 40, which is exactly one sixth of the whole garden.",
    "Bread dough that rises slowly in a cold place tastes better than dough that rises quickly in a warm one. At low "
    "temperatures the yeast makes less gas, while the enzymes and the bacteria continue to work on the flour. They "
    "produce acids and sugars, and these are what give the crust its colour and the crumb its slightly nutty smell.",
    "The committee met on the second of May and discussed the broken street lamps in the northern part of the town. "
    "Mr Oduya reported that nineteen of them had been out of order since the storm. It was agreed to ask two companies "
    "for an offer, and to tell the residents that repairs would begin before the end of the month.",
    "Nobody knew who had painted the small blue boat on the wall of the tunnel. It appeared one night in March, no "
    "larger than a hand, with a single white sail. In the following weeks other people added waves, a lighthouse, and "
    "a whale with a suspiciously friendly smile, until the commuters began to arrive earlier in order to look at it.",
    "When you compare two medicines, it is not enough to show that one of them helped more patients. The groups must "
    "have been formed by chance, the people who measured the effect should not have known who took what, and the "
    "difference has to be larger than what would be expected if both were equally good. Otherwise you may be admiring "
    "noise.",
    "The train from Lund was almost empty. A boy was sleeping across two seats with a violin case for a pillow, and "
    "every time the carriage swayed, his hand closed around the handle without his waking up. At the last station the "
    "conductor touched his shoulder, and he said, quite clearly, that he had only been counting the rests.",
    "Crows remember faces. In one experiment, researchers wore a rubber mask while they caught and ringed several "
    "birds. For years afterwards, anyone who crossed the campus with this mask was scolded loudly, even by young crows "
    "that had not yet hatched at the time of the capture. The same people without the mask were left in peace.",
    "Turn left at the second roundabout and follow the signs to the quarry. After the railway crossing the road "
    "becomes narrow, and you may have to wait for tractors. Our house is the third on the right, with a yellow gate. "
    "Please do not trust the map on your telephone, which will send you through the river.",
    "A good umpire is invisible. If the players talk about the ball, the wind and their own mistakes, the game was "
    "well led. If they talk about the umpire, something has gone wrong, even when each single decision was correct. "
    "My grandmother, who led village matches for thirty years, used to say that her whistle was for emergencies and "
    "for dogs.",
    "To move the piano we needed four people, two planks and a great deal of patience. The instrument was heavier at "
    "one end than at the other, which nobody had told us, and at the turn of the staircase it began to lean towards "
    "the window. Only when the smallest of us crawled underneath and pushed with both feet did it become straight "
    "again.",
    "The tax on windows was easy to collect, since an inspector could count them from the street, and hard to love. "
    "Owners bricked up every opening that they could spare. Doctors complained that whole families lived in the dark "
    "and were ill because of it, but the tax remained for more than a hundred and fifty years, because it brought in "
    "money.",
    "If the engine does not start, check the simple things first. Is there fuel in the tank, and is the valve below it "
    "open? Is the switch in the right position? Then unscrew the plug, look whether it is wet, and dry it with a "
    "clean cloth. Most of the machines that are brought to our workshop would have needed nothing more than that.",
    "She had been told that the island had no trees, and so the first thing that she saw was one: a bent, stubborn "
    "rowan behind the school, held upright by a wall. The children called it the forest. They met in the forest after "
    "lessons, they lost their gloves in the forest, and in autumn they were forbidden to eat the berries of the "
    "forest.",
)
