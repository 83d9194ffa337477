"""Common English words of four letters and more, and invented ones.

No two words have the same letters with the same first and last one, so that what was scrambled between
them is one word.
"""

from random import Random

WORDS = """
about above accept account across action active address advance advice afraid after again against
agree almost alone along already always amount ancient angle animal answer anyone appear apple
april arrive article artist aspect attack attempt august aunt autumn avoid awake balance banana
barely basket battle beach beauty because become before begin behind belief belong below bench
beside better between beyond bicycle birthday bitter black blanket blind blood board boat body
border borrow bottle bottom branch brave bread break breath bridge bright bring broken brother
brown brush bucket build burn business butter button cabin cable calm camera candle captain
capture carbon careful carpet carry castle catch cattle cause ceiling centre century certain chain
chair chance change chapter charge cheap cheese cherry chest chicken child choice choose church
circle citizen city clean clear climb clock close cloth cloud coach coast coffee cold collect
college colour column combine comfort common company compare complete concern concert connect
consider contain content contest continue control convince cook copper corner correct cotton
council country couple courage course cousin cover create credit crime cross crowd crown culture
curious current curtain custom cycle damage dance danger dark daughter dawn debate decade decide
deep defend degree delay deliver demand depend depth desert design desire detail develop device
dinner direct discover discuss disease dish distance divide doctor double doubt dozen dragon drama
dream dress drink drive during duty eager early earth easy echo edge editor effect effort eight
either elbow elder elect eleven employ empty energy engine enjoy enough enter entire equal escape
even evening event every evidence exact example except excite exercise exist explain express
extend extra fabric face fact factory fail faint fair faith fall false familiar family famous farm
fashion fast father fault favour feather feature feed feel fellow fence festival fever field
fifteen fight figure film final find finger finish fire first fish flag flame flat flavour flight
float flood floor flour flower follow food foot force foreign forest forget forgive fork form
fortune forward found four frame free freedom fresh friend fright front frozen fruit full future
gain game garden garlic gather gentle ghost giant gift glad glass glove goal gold good govern
grade grain grand grant grass grave great green greet grey ground group grow guard guess guest
guide guitar habit half hammer hand handle happen happy harbour hard harm harvest hate have head
health hear heart heat heaven heavy height help here hero hidden high hill history hold hole
holiday hollow home honest honey honour hope horn horse hospital host hotel hour house however
huge human humble hundred hungry hunt hurry hurt husband idea image imagine improve inch include
income increase indeed inform insect inside instead invite iron island issue item jacket jewel
join joke journey judge juice jump junior jury just keen keep kettle kick kind king kitchen knee
knife knock know labour ladder lady lake lamp land language large last late laugh lawyer layer
lead leaf learn least leather leave left lemon lend length lesson letter level liberty library
life lift light like limit line lion liquid list listen little live loan local lock logic lonely
long look lose loud love lower loyal luck lunch machine magic main major make manage manner many
maple marble march margin mark market marry master match matter maybe meadow meal mean measure
meat medal meet melt member memory mention merchant mercy message metal method middle might mild
mile milk mill mind mineral minute mirror miss mistake mixture model modern moment money monkey
month mood moon moral more morning most mother motion motor mountain mouse mouth move much museum
music must mystery naked name narrow nation native nature near neat neck need needle neighbour
neither nephew nerve nest never news next nice night nine noble nobody noise none noon normal
north nose note nothing notice novel number nurse object ocean offer office often onion only open
opinion orange orbit order organ other ought outside oven over owner oxygen packet page paint pair
palace pale paper parade parent park part party pass past path patient pattern pause peace peach
pencil penny people pepper perfect perhaps period permit person phone photo phrase piano pick
picture piece pigeon pilot pink pipe pitch place plain plan planet plant plate play please plenty
pocket poem poet point poison police polite pond pool poor popular port portrait position possible
post potato pound powder power praise pray prepare present press pretty prevent price pride priest
prince print prison prize problem process produce profit promise proof proper protect proud prove
public pull pump pupil purple purpose push puzzle quality quarter queen question quick quiet quite
rabbit race radio rain raise range rapid rare rather reach read ready real reason receive recent
record reduce refuse region regret reject relate relax release remain remark remember remind
remove repair repeat reply report rescue research respect rest result return reveal reward rhythm
ribbon rice rich ride right ring rise risk river road rock role roof room root rope rose rough
round route royal rubber rule rush sacred sadness safe sail salad salt same sample sand satisfy
save scale scene school science scissors score screen search season seat second secret seed seem
select sell send senior sense separate serious servant serve settle seven several shade shadow
shake shallow shape share sharp sheep sheet shelf shell shelter shield shine ship shirt shock shoe
shop shore short should shoulder shout show shower sight signal silence silk silver similar simple
since sing single sister size skill skin sleep slice slide slight slow small smart smell smile
smoke smooth snake snow social soft soil soldier solid some song soon sorry sort soul sound soup
south space spare speak special speed spell spend spice spider spirit spoon sport spot spread
spring square stable staff stage stair stamp stand star start state station steal steam steel
steep step stick still stone stop store storm story straight strange stream street strength
stretch strike string strong student study style subject succeed such sudden suffer sugar suggest
summer sunny supper supply support suppose sure surface surprise surround sweet swim sword symbol
system table tail take tale talent talk tall target task taste teach team tear tell temple tennis
tent term test thank theatre theme theory there thick thief thin thing think third this those
though thought thread throat through throw thumb thunder ticket tide tiger tight timber time tiny
tired title toast today together tomato tone tongue tool tooth topic total touch tour toward tower
town track trade traffic train travel treasure treat tree triangle trick trouble true trust truth
turn twelve twenty twice twin twist type ugly uncle under understand uniform union unit until upon
upper upset urban useful usual valley value vanish variety various vegetable velvet very victory
view village violin visit voice volume vote wage wagon wait wake walk wall wander want warm warn
wash waste watch water wave weak wealth weapon wear weather wedding week weight welcome well west
whale wheat wheel when where while whisper whistle white whole wide wife wild will willow wind
window wine wing winter wire wisdom wise wish with within without wolf woman wonder wood wool word
work world worry worth would wound wrap write wrong yard year yellow yesterday yield young youth
zebra zero
""".split()
ONSETS = "b bl br d dr f fl g gl gr k kl m n p pl pr r s sk sl sn sp st t tr v w z".split()
VOWELS = "a e i o u".split()
CODAS = ["", "", "l", "m", "n", "r", "s", "t", "x", "ck", "sh", "ng"]


def invented(draw: Random, syllables: int = 2) -> str:
    """A word that can be said, and means nothing: "whatpu", "farduddle"."""
    parts = [
        draw.choice(ONSETS) + draw.choice(VOWELS) + draw.choice(CODAS) for _ in range(syllables)
    ]
    return "".join(parts)
