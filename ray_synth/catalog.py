"""Known datasets as rows of one table: how each original release lies on a disk, and what papers train on it with.

Plain data, no code that reads: a row names a layout of `ray_synth.data.layouts`, the files that it looks at, and the
settings that an experiment takes where its file does not say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Known:
    """One dataset. Paths are relative to `data.path`; alternatives are tried in order.

    layout: name of the function that finds images and labels; expects: what must lie in `data.path`, for messages.
    lists: list files of the official split, by part; line: regular expression of a line of them, with groups `file`
    and, if the line names the class, `key`; file: where the image of a line lies.
    classes: a file with one class a line, in the order of the labels; names: keys to words, where no file has them or
    a file's are no good; listed_classes: only the classes that `classes` or `names` list belong to it.
    shots, max_validation: images per class; the settings of `data` where the experiment file has none.
    """

    layout: str
    expects: str
    prompt: str
    images: tuple[str, ...] = ("",)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    line: str = ""
    file: str = "{file}"
    classes: tuple[str, ...] = ()
    class_line: str = r"(?P<key>.+)"
    words: str = "underscores"
    names: dict[str, str] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    listed_classes: bool = False
    real_weight: float = 4.0
    clusters_per_class: float = 2.0
    image_size: int = 224
    shots: int = 16
    max_validation: int | None = None


# The release numbers its classes; these are the names that go with the numbers.
FLOWERS = (
    "pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid, "
    "bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, "
    "globe-flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, "
    "pincushion flower, fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers, "
    "stemless gentian, artichoke, sweet william, carnation, garden phlox, love in the mist, mexican aster, "
    "alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, "
    "daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, "
    "common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium, "
    "orange dahlia, pink-yellow dahlia, cautleya spicata, japanese anemone, black-eyed susan, silverbush, "
    "californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania, azalea, "
    "water lily, rose, thorn apple, morning glory, passion flower, lotus, toad lily, anthurium, frangipani, clematis, "
    "hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee balm, "
    "ball moss, foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket flower, "
    "trumpet creeper, blackberry lily"
)

IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}

EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}

# The synsets whose first name in LOC_synset_mapping.txt is that of another one too.
IMAGENET_APART = {
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n02113186": "Cardigan Welsh Corgi",
    "n02963159": "cardigan",
    "n03710637": "maillot",
    "n03710721": "one-piece bathing suit",
}

_IMAGENET_FILES = (
    "train/SYNSET/*.JPEG, val/SYNSET/*.JPEG (or val/*.JPEG with LOC_val_solution.csv) and LOC_synset_mapping.txt "
    "or classnames.txt"
)
_IMAGENET_ROOTS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "")

CATALOG: dict[str, Known] = {
    "imagenet": Known(
        layout="synsets",
        expects=_IMAGENET_FILES,
        prompt="a photo of a {class}.",
        images=_IMAGENET_ROOTS,
        names=IMAGENET_APART,
        clusters_per_class=0.5,
        max_validation=16,
    ),
    "imagenet100": Known(
        layout="synsets",
        expects=_IMAGENET_FILES + ", and the list of its 100 synsets (imagenet100.txt, or data.class_list)",
        prompt="a photo of a {class}.",
        images=_IMAGENET_ROOTS,
        classes=("imagenet100.txt",),
        listed_classes=True,
        names=IMAGENET_APART,
        max_validation=16,
    ),
    "imagenette": Known(
        layout="synsets",
        expects="train/SYNSET/*.JPEG and val/SYNSET/*.JPEG",
        prompt="a photo of a {class}.",
        names=IMAGENETTE,
    ),
    "caltech101": Known(
        layout="class_folders",
        expects="101_ObjectCategories/CLASS/*.jpg",
        prompt="a photo of a {class}.",
        images=("101_ObjectCategories", "caltech-101/101_ObjectCategories"),
        skip=("BACKGROUND_Google", "Faces_easy"),
        names={"Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike", "airplanes": "airplane"},
    ),
    "dtd": Known(
        layout="split_lists",
        expects="images/CLASS/*.jpg and labels/train1.txt, val1.txt, test1.txt",
        prompt="a photo of a {class} texture.",
        images=("images", "dtd/images"),
        lists={
            "train": ("labels/train1.txt", "dtd/labels/train1.txt"),
            "val": ("labels/val1.txt", "dtd/labels/val1.txt"),
            "test": ("labels/test1.txt", "dtd/labels/test1.txt"),
        },
        line=r"(?P<file>(?P<key>[^/]+)/.+)",
    ),
    "eurosat": Known(
        layout="class_folders",
        expects="2750/CLASS/*.jpg or EuroSAT_RGB/CLASS/*.jpg",
        prompt="a centered satellite photo of {class}.",
        images=("2750", "EuroSAT/2750", "EuroSAT", "EuroSAT_RGB", ""),
        names=EUROSAT,
        listed_classes=True,
    ),
    "aircraft": Known(
        layout="split_lists",
        expects="data/images/*.jpg, data/variants.txt and data/images_variant_{train,val,test}.txt",
        prompt="a photo of a {class}, a type of aircraft.",
        images=("data/images", "images"),
        lists={
            "train": ("data/images_variant_train.txt", "images_variant_train.txt"),
            "val": ("data/images_variant_val.txt", "images_variant_val.txt"),
            "test": ("data/images_variant_test.txt", "images_variant_test.txt"),
        },
        line=r"(?P<file>\d+) (?P<key>.+)",
        file="{file}.jpg",
        classes=("data/variants.txt", "variants.txt"),
        words="as they are",
    ),
    "pets": Known(
        layout="split_lists",
        expects="images/*.jpg and annotations/trainval.txt, test.txt",
        prompt="a photo of a {class}, a type of pet.",
        images=("images",),
        lists={"train": ("annotations/trainval.txt",), "test": ("annotations/test.txt",)},
        line=r"(?P<file>(?P<key>.+)_\d+) \d+ \d+ \d+",
        file="{file}.jpg",
    ),
    "cars": Known(
        layout="cars_devkit",
        expects="cars_train/*.jpg, cars_test/*.jpg, devkit/cars_meta.mat, devkit/cars_train_annos.mat and "
        "cars_test_annos_withlabels.mat",
        prompt="a photo of a {class}, a type of car.",
        words="year last",
        real_weight=1.0,
    ),
    "sun397": Known(
        layout="split_lists",
        expects="SUN397/a/abbey/*.jpg, ClassName.txt, Training_01.txt and Testing_01.txt",
        prompt="a photo of a {class}.",
        images=("SUN397", ""),
        lists={
            "train": ("Training_01.txt", "Partitions/Training_01.txt", "SUN397/Training_01.txt"),
            "test": ("Testing_01.txt", "Partitions/Testing_01.txt", "SUN397/Testing_01.txt"),
        },
        line=r"/?(?P<file>(?P<key>.+)/[^/]+)",
        classes=("ClassName.txt", "Partitions/ClassName.txt", "SUN397/ClassName.txt"),
        class_line=r"/?(?P<key>.+)",
        words="path",
        max_validation=16,
    ),
    "food101": Known(
        layout="split_lists",
        expects="images/CLASS/*.jpg, meta/classes.txt, meta/train.txt and meta/test.txt",
        prompt="a photo of {class}, a type of food.",
        images=("images", "food-101/images"),
        lists={
            "train": ("meta/train.txt", "food-101/meta/train.txt"),
            "test": ("meta/test.txt", "food-101/meta/test.txt"),
        },
        line=r"(?P<file>(?P<key>[^/]+)/.+)",
        file="{file}.jpg",
        classes=("meta/classes.txt", "food-101/meta/classes.txt"),
        max_validation=16,
    ),
    "flowers102": Known(
        layout="flowers_mat",
        expects="jpg/image_*.jpg, imagelabels.mat and setid.mat",
        prompt="a photo of a {class}, a type of flower.",
        images=("jpg",),
        names={str(number): name for number, name in enumerate(FLOWERS.split(", "), start=1)},
        shots=8,  # the release has ten training images a class
    ),
    "cub200": Known(
        layout="id_tables",
        expects="images/CLASS/*.jpg, images.txt, image_class_labels.txt, train_test_split.txt and classes.txt",
        prompt="a photo of a {class}, a type of bird.",
        images=("CUB_200_2011", ""),
        words="numbered",
    ),
}
