"""How ROOT 6 lays out the classes of a DQMIO file: one description to write objects and to tell it.

The same text gives the bytes of an object (`Encoder`) and the ``TStreamerInfo`` that tells a reader
how to take them apart (`streamer_infos`), so that the two cannot differ.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

# A line per class: name, version, bases in brackets, then the members in the order of the file.
# `T m[n]` is an array whose length is the member n; `T-> m` an object that always exists; `enum T`
# an int of another name. The members are facts of ROOT 6.24; the checksums below confirm them.
_CLASSES = """
TObject 1 (): unsigned int fUniqueID; bits fBits
TNamed 1 (TObject): TString fName; TString fTitle
TAttLine 2 (): short fLineColor; short fLineStyle; short fLineWidth
TAttFill 2 (): short fFillColor; short fFillStyle
TAttMarker 2 (): short fMarkerColor; short fMarkerStyle; float fMarkerSize
TAttAxis 4 (): int fNdivisions; short fAxisColor; short fLabelColor; short fLabelFont;
    float fLabelOffset; float fLabelSize; float fTickLength; float fTitleOffset; float fTitleSize;
    short fTitleColor; short fTitleFont
TAtt3D 1 ():
TString 2 ():
TArray 1 (): int fN
TArrayS 1 (TArray): short* fArray[fN]
TArrayI 1 (TArray): int* fArray[fN]
TArrayF 1 (TArray): float* fArray[fN]
TArrayD 1 (TArray): double* fArray[fN]
TCollection 3 (TObject): TString fName; int fSize
TSeqCollection 0 (TCollection):
TList 5 (TSeqCollection):
THashList 0 (TList):
TObjArray 3 (TSeqCollection): int fLowerBound; int fLast
TObjString 1 (TObject): TString fString
TAxis 10 (TNamed TAttAxis): int fNbins; double fXmin; double fXmax; TArrayD fXbins; int fFirst;
    int fLast; unsigned short fBits2; bool fTimeDisplay; TString fTimeFormat; THashList* fLabels;
    TList* fModLabs
TH1 8 (TNamed TAttLine TAttFill TAttMarker): int fNcells; TAxis fXaxis; TAxis fYaxis; TAxis fZaxis;
    short fBarOffset; short fBarWidth; double fEntries; double fTsumw; double fTsumw2;
    double fTsumwx; double fTsumwx2; double fMaximum; double fMinimum; double fNormFactor;
    TArrayD fContour; TArrayD fSumw2; TString fOption; TList-> fFunctions; int fBufferSize;
    double* fBuffer[fBufferSize]; enum TH1::EBinErrorOpt fBinStatErrOpt;
    enum TH1::EStatOverflows fStatOverflows
TH2 5 (TH1): double fScalefactor; double fTsumwy; double fTsumwy2; double fTsumwxy
TH3 6 (TH1 TAtt3D): double fTsumwy; double fTsumwy2; double fTsumwxy; double fTsumwz;
    double fTsumwz2; double fTsumwxz; double fTsumwyz
TH1F 3 (TH1 TArrayF):
TH1S 3 (TH1 TArrayS):
TH1D 3 (TH1 TArrayD):
TH1I 3 (TH1 TArrayI):
TH2F 4 (TH2 TArrayF):
TH2S 4 (TH2 TArrayS):
TH2D 4 (TH2 TArrayD):
TH2I 4 (TH2 TArrayI):
TH3F 4 (TH3 TArrayF):
TProfile 7 (TH1D): TArrayD fBinEntries; enum EErrorType fErrorMode; double fYmin; double fYmax;
    double fTsumwy; double fTsumwy2; TArrayD fBinSumw2
TProfile2D 8 (TH2D): TArrayD fBinEntries; enum EErrorType fErrorMode; double fZmin; double fZmax;
    double fTsumwz; double fTsumwz2; TArrayD fBinSumw2
ROOT::TIOFeatures 1 (): unsigned char fIOBits
TLeaf 2 (TNamed): int fLen; int fLenType; int fOffset; bool fIsRange; bool fIsUnsigned;
    TLeaf* fLeafCount
TLeafI 1 (TLeaf): int fMinimum; int fMaximum
TLeafL 1 (TLeaf): long long fMinimum; long long fMaximum
TLeafD 1 (TLeaf): double fMinimum; double fMaximum
TLeafElement 1 (TLeaf): int fID; int fType
TLeafObject 4 (TLeaf): bool fVirtual
TBranch 13 (TNamed TAttFill): int fCompress; int fBasketSize; int fEntryOffsetLen;
    int fWriteBasket; long long fEntryNumber; ROOT::TIOFeatures fIOFeatures; int fOffset;
    int fMaxBaskets; int fSplitLevel; long long fEntries; long long fFirstEntry;
    long long fTotBytes; long long fZipBytes; TObjArray fBranches; TObjArray fLeaves;
    TObjArray fBaskets; int* fBasketBytes[fMaxBaskets]; long long* fBasketEntry[fMaxBaskets];
    long long* fBasketSeek[fMaxBaskets]; TString fFileName
TBranchElement 10 (TBranch): TString fClassName; TString fParentName; TString fClonesName;
    unsigned int fCheckSum; short fClassVersion; int fID; int fType; int fStreamerType;
    int fMaximum; TBranchElement* fBranchCount; TBranchElement* fBranchCount2
TBranchObject 1 (TBranch): TString fClassName
TTree 20 (TNamed TAttLine TAttFill TAttMarker): long long fEntries; long long fTotBytes;
    long long fZipBytes; long long fSavedBytes; long long fFlushedBytes; double fWeight;
    int fTimerInterval; int fScanField; int fUpdate; int fDefaultEntryOffsetLen;
    int fNClusterRange; long long fMaxEntries; long long fMaxEntryLoop; long long fMaxVirtualSize;
    long long fAutoSave; long long fAutoFlush; long long fEstimate;
    long long* fClusterRangeEnd[fNClusterRange]; long long* fClusterSize[fNClusterRange];
    ROOT::TIOFeatures fIOFeatures; TObjArray fBranches; TObjArray fLeaves; TList* fAliases;
    TArrayD fIndexValues; TArrayI fIndex; TVirtualIndex* fTreeIndex; TList* fFriends;
    TList* fUserInfo; TBranchRef* fBranchRef
"""

# The classes that describe classes; a file holds objects of them, but no description.
_DESCRIBING = """
TStreamerInfo 9 (TNamed): unsigned int fCheckSum; int fClassVersion; TObjArray* fElements
TStreamerElement 4 (TNamed): int fType; int fSize; int fArrayLength; int fArrayDim;
    int fMaxIndex0; unsigned int fMaxIndex1; int fMaxIndex2; int fMaxIndex3; int fMaxIndex4;
    TString fTypeName
TStreamerBase 3 (TStreamerElement): int fBaseVersion
TStreamerBasicType 2 (TStreamerElement):
TStreamerBasicPointer 2 (TStreamerElement): int fCountVersion; TString fCountName;
    TString fCountClass
TStreamerString 2 (TStreamerElement):
TStreamerObject 2 (TStreamerElement):
TStreamerObjectAny 2 (TStreamerElement):
TStreamerObjectPointer 2 (TStreamerElement):
"""

# Basic type -> struct code, code in TStreamerElement::fType.
_BASIC = {
    "bool": ("?", 18),
    "unsigned char": ("B", 11),
    "short": ("h", 2),
    "unsigned short": ("H", 12),
    "int": ("i", 3),
    "unsigned int": ("I", 13),
    "bits": ("I", 15),
    "long long": ("q", 16),
    "float": ("f", 5),
    "double": ("d", 8),
}
_COUNTER, _POINTER = 6, 40
_SIZES = {"TAxis": 216, "TString": 24, "TObjArray": 64, "ROOT::TIOFeatures": 1}
_ARRAYS = {"TArrayS": "i2", "TArrayI": "i4", "TArrayF": "f4", "TArrayD": "f8"}
_COLLECTIONS = {"TList", "THashList", "TObjArray"}

# Of classes without a version of their own (abstract, or never stored alone) ROOT writes a checksum
# that its present rule does not give.
_OLD_CHECKSUMS = {"TSeqCollection": 0xFC6C3BC6, "THashList": 0xCC7E49C1}

FRAME = 0x40000000
_NEW_CLASS = 0xFFFFFFFF
_CLASS_TAG = 0x80000000
# ROOT numbers objects and classes in a buffer by position plus this, as 0 is the null pointer.
TAG_OFFSET = 2


@dataclass(frozen=True)
class Member:
    """One member of a class: its type as the file names it, and the member that counts it."""

    name: str
    type: str
    counted_by: str = ""
    always: bool = False
    enum: bool = False

    @property
    def is_pointer(self) -> bool:
        """Whether objects of other classes may stand here, or none."""
        return self.type.endswith("*") and not self.counted_by


@dataclass(frozen=True)
class Layout:
    """Bases and members of one class, in the order of the file."""

    name: str
    version: int
    bases: tuple[str, ...]
    members: tuple[Member, ...]

    @property
    def checksum(self) -> int:
        """ROOT's checksum of the class, which guards a version against a changed layout."""
        return _checksum(self.name)


_MEMBER = re.compile(r"(enum )?(.+?)(->)? (\w+)(?:\[(\w+)\])?")


def _parse(text: str) -> dict[str, Layout]:
    layouts = {}
    for line in re.sub(r"\n    ", " ", text).strip().splitlines():
        head, body = re.split(r"\):", line, maxsplit=1)
        (name, version), bases = head.split("(")[0].split(), head.split("(")[1].split()
        members = []
        for item in filter(None, (part.strip() for part in body.split(";"))):
            found = _MEMBER.fullmatch(item)
            if found is None:
                raise ValueError(f"{name}: {item!r}, want a type and a name")
            enum, kind, always, member, counter = found.groups()
            kind = f"{kind}*" if always else kind
            members.append(Member(member, kind, counter or "", bool(always), bool(enum)))
        layouts[name] = Layout(name, int(version), tuple(bases), tuple(members))
    return layouts


_DESCRIBED = _parse(_CLASSES)
LAYOUTS: Mapping[str, Layout] = {**_DESCRIBED, **_parse(_DESCRIBING)}


def _hashed(seed: int, text: str) -> int:
    for byte in text.encode():
        seed = (seed * 3 + byte) & 0xFFFFFFFF
    return seed


@cache
def _checksum(name: str) -> int:
    if name in _OLD_CHECKSUMS:
        return _OLD_CHECKSUMS[name]
    layout = LAYOUTS[name]
    value = _hashed(0, name)
    for base in layout.bases:
        value = (_hashed(value, base) * 3 + _checksum(base)) & 0xFFFFFFFF
    for member in layout.members:
        if member.enum:
            value = (value * 3 + 1) & 0xFFFFFFFF
        spelled = member.type.replace("long long", "Long64_t").replace("bits", "unsigned int")
        value = _hashed(_hashed(value, member.name), spelled)
        value = _hashed(value, member.counted_by)
    return value


@dataclass(frozen=True, eq=False)
class Instance:
    """An object to be written: its class and its members' values, those of the bases included.

    A member not named is zero, empty or null. Of a collection ``items`` are the objects in it.
    """

    class_name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    items: Sequence[Instance] = ()


@dataclass(frozen=True)
class Slot:
    """Place of a value that differs between objects which are alike in all else."""

    name: str
    dtype: str
    count: int = 1


class Encoder:
    """Bytes of objects in a buffer whose first byte has the position ``origin``.

    ``slots`` holds the position of every `Slot`, ``tags`` those of the references to classes and
    what they refer to: all relative to the buffer, so that the bytes can be moved.
    """

    def __init__(self, origin: int = 0) -> None:
        self.data = bytearray()
        self.origin = origin
        self.slots: dict[Slot, int] = {}
        self.tags: list[tuple[int, int]] = []
        self._classes: dict[str, int] = {}
        self._objects: dict[Instance, int] = {}

    def record(self, class_name: str, values: Mapping[str, Any]) -> None:
        """Write an object with its frame: byte count and version."""
        start = len(self.data)
        self.data += struct.pack(">IH", 0, LAYOUTS[class_name].version)
        self.bare(class_name, values)
        self._close_frame(start)

    def _close_frame(self, start: int) -> None:
        count = len(self.data) - start - 4
        if count >= FRAME:
            raise ValueError(f"an object of {count} bytes, want less than {FRAME}")
        struct.pack_into(">I", self.data, start, FRAME | count)

    def bare(self, class_name: str, values: Mapping[str, Any]) -> None:
        """Write an object's bases and members without a frame of its own."""
        layout = LAYOUTS[class_name]
        for base in layout.bases:
            if base == "TObject":
                self._object_header(values)
            elif base in _ARRAYS:
                self._array(values.get("fArray", ()), _ARRAYS[base])
            else:
                self.record(base, values)
        for member in layout.members:
            self._member(member, values)

    def _object_header(self, values: Mapping[str, Any]) -> None:
        unique, bits = values.get("fUniqueID", 0), values.get("fBits", 0x03000000)
        self.data += struct.pack(">HII", 1, unique, bits)

    def _member(self, member: Member, values: Mapping[str, Any]) -> None:
        value = values.get(member.name)
        kind = member.type
        if member.counted_by:
            self._counted(value, kind)
        elif member.always:
            self.collection("TList", value or ())
        elif member.is_pointer:
            self.pointer(value)
        elif kind == "TString":
            self.string(value or "")
        elif kind in _ARRAYS:
            self._array(() if value is None else value, _ARRAYS[kind])
        elif kind in _COLLECTIONS:
            self.collection(kind, value or ())
        elif kind in _BASIC or member.enum:
            self._number(value, _BASIC["int" if member.enum else kind][0])
        elif kind == "ROOT::TIOFeatures":
            # Not a TObject, so its version is told by checksum: version 0 and the sum.
            self.data += struct.pack(">IHIB", FRAME | 7, 0, LAYOUTS[kind].checksum, 0)
        else:
            self.record(kind, value or {})

    def _number(self, value: Any, code: str) -> None:
        if isinstance(value, Slot):
            self._slot(value)
        else:
            self.data += struct.pack(f">{code}", value or 0)

    def _slot(self, slot: Slot) -> None:
        self.slots[slot] = len(self.data)
        self.data += bytes(slot.count * np.dtype(slot.dtype).itemsize)

    def _array(self, value: Any, dtype: str) -> None:
        if isinstance(value, Slot):
            self.data += struct.pack(">i", value.count)
            self._slot(value)
        else:
            self.data += struct.pack(">i", len(value))
            self.data += np.asarray(value, dtype=f">{dtype}").tobytes()

    def _counted(self, value: Any, kind: str) -> None:
        filled = value is not None and len(value) > 0
        self.data.append(filled)
        if filled:
            code = _BASIC[kind.rstrip("*")][0]
            self.data += np.asarray(value, dtype=f">{code}").tobytes()

    def string(self, text: str) -> None:
        """Write a TString: its length in one byte, or 255 and four, then UTF-8."""
        self.data += string_bytes(text)

    def collection(self, class_name: str, items: Sequence[Instance]) -> None:
        """Write a TList, THashList or TObjArray."""
        start = len(self.data)
        array = class_name == "TObjArray"
        self.data += struct.pack(">IH", 0, LAYOUTS["TObjArray" if array else "TList"].version)
        self._object_header({})
        self.string("")
        self.data += struct.pack(">i", len(items))
        if array:
            self.data += struct.pack(">i", 0)
        for item in items:
            self.pointer(item)
            if not array:
                self.string("")  # the option of a list's link
        self._close_frame(start)

    def pointer(self, instance: Instance | None) -> None:
        """Write an object with its class, a reference to it if it came before, or null."""
        if instance is None:
            self.data += bytes(4)
            return
        if instance in self._objects:
            tag = self.origin + self._objects[instance] + TAG_OFFSET
            self.data += struct.pack(">I", tag)
            return
        start = len(self.data)
        self._objects[instance] = start
        self.data += bytes(4)
        self._class_tag(instance.class_name)
        if instance.class_name in _COLLECTIONS:
            self.collection(instance.class_name, instance.items)
        else:
            self.record(instance.class_name, instance.values)
        self._close_frame(start)

    def _class_tag(self, class_name: str) -> None:
        here = len(self.data)
        target = self._classes.get(class_name)
        if target is None:
            self._classes[class_name] = here
            self.data += struct.pack(">I", _NEW_CLASS) + class_name.encode() + b"\0"
        else:
            self.tags.append((here, target))
            self.data += struct.pack(">I", class_reference(self.origin + target))


def class_reference(position: Any) -> Any:
    """What stands for a class that was named at ``position`` of the buffer."""
    return (position + TAG_OFFSET) | _CLASS_TAG


def string_bytes(text: str) -> bytes:
    """A TString or a std::string: the length in one byte, or 255 and four, then UTF-8."""
    raw = text.encode("utf-8", "surrogateescape")
    return (bytes([len(raw)]) if len(raw) < 255 else struct.pack(">BI", 255, len(raw))) + raw


def streamer_infos(class_names: Iterable[str] | None = None) -> list[Instance]:
    """A ``TStreamerInfo`` for each of the classes, by default for all that a DQMIO file holds."""
    return [_streamer_info(LAYOUTS[name]) for name in (class_names or _DESCRIBED)]


def _streamer_info(layout: Layout) -> Instance:
    counters = {member.counted_by for member in layout.members}
    elements = [_base_element(base) for base in layout.bases]
    elements += [_element(layout, member, member.name in counters) for member in layout.members]
    if layout.name == "TArray":
        elements = [_element(layout, layout.members[0], True)]
    values = {
        "fName": layout.name,
        "fCheckSum": layout.checksum,
        "fClassVersion": layout.version,
        "fElements": Instance("TObjArray", items=elements),
    }
    return Instance("TStreamerInfo", values)


def _base_element(base: str) -> Instance:
    values = {
        "fName": base,
        "fType": {"TObject": 66, "TNamed": 67}.get(base, 0),
        "fMaxIndex1": LAYOUTS[base].checksum,
        "fTypeName": "BASE",
        "fBaseVersion": LAYOUTS[base].version,
    }
    return Instance("TStreamerBase", values)


def _element(layout: Layout, member: Member, is_counter: bool) -> Instance:
    kind = member.type
    values: dict[str, Any] = {"fName": member.name}
    values["fTypeName"] = "unsigned int" if kind == "bits" else kind
    if member.counted_by:
        owner = "TArray" if member.counted_by == "fN" else layout.name
        code, number = _BASIC[kind.rstrip("*")]
        values |= {
            "fTitle": f"[{member.counted_by}]",
            "fType": _POINTER + number,
            "fSize": struct.calcsize(f">{code}"),
            "fCountVersion": LAYOUTS[owner].version,
            "fCountName": member.counted_by,
            "fCountClass": owner,
        }
        return Instance("TStreamerBasicPointer", values)
    if kind.endswith("*"):
        values |= {"fTitle": "->" * member.always, "fType": 63 if member.always else 64, "fSize": 8}
        return Instance("TStreamerObjectPointer", values)
    if kind == "TString":
        return Instance("TStreamerString", values | {"fType": 65, "fSize": 24})
    if kind in _BASIC or member.enum:
        code, number = _BASIC["int" if member.enum else kind]
        values |= {"fType": _COUNTER if is_counter else number}
        return Instance("TStreamerBasicType", values | {"fSize": struct.calcsize(f">{code}")})
    from_object = _is_object(kind)
    values |= {"fType": 61 if from_object else 62, "fSize": _SIZES.get(kind, 24)}
    return Instance("TStreamerObject" if from_object else "TStreamerObjectAny", values)


def _is_object(class_name: str) -> bool:
    bases = LAYOUTS[class_name].bases
    return "TObject" in bases or any(_is_object(base) for base in bases)
