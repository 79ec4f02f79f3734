/// Words that are everywhere in English: those of `edgesink/memory/words.py`, with which a test compares them.
let commonWords = """
    a about after again all already also always am an and another any anybody anyone anything are as ask at away
    back be because been before being both but by can come could did do does doing done each either else ever every
    everybody everyone everything few find first for from gave get give go goes going gone got had has have having
    he her here hers him his how i if in into is it its itself just keep know last later least let like long made
    make many may maybe me might mine more most much must my name need never next no nobody none nor not nothing now
    of off on once one only or other our ours out over own per please put rather really same say says see shall she
    should since so some somebody someone something soon still such take tell than that the their theirs them then
    there these they thing things think this those though thought through till to today told too under until up upon
    us use used very want wanted was way we well went were what when where whether which while who whom whose why
    will with without would year yes yet you your yours
    """
