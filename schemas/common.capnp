@0xcaa013e226a0cd9d;
# What all of cw's interfaces speak of: names, instants, tensors' types, models, refusals, status.
#
# Four terms, used in every file here:
#
# - A *gateway* admits requests, the *controller* decides about them, an *executor* runs them on
#   one device. The controller sees descriptors only; tensors go from gateway to executor.
# - *Cluster time* is the monotonic clock of the controller, in nanoseconds. Every instant in these
#   files is on that clock unless its comment names another; each process converts at its own edge.
# - An *action* is what the controller orders an executor to do inside a *window*; a *slot* is one
#   request's place in an action that infers.
# - An *attempt* is one try at a request. At most one is current, and only its outputs count.
#
# Two rules, kept by both sides:
#
# - The first member of every union and of every enum is `unset`, the zero value. Nobody sends it:
#   whoever receives it, or a member unknown to him, drops the peer. A forgotten field is thereby
#   never taken for a meaning.
# - What is expected to happen (a refusal, a rejected action) is a member of a union. An exception
#   means that the caller, or the one called, is at fault; its text is `Type: explanation`, and
#   the types are those of cw/errors.py.
#
# Ids of files and interfaces are fixed here; those of structs follow from them and from the names.
# Members are never removed nor given a new meaning: an obsolete one is renamed `obsoleteX`.

const protocolVersion :UInt16 = 1;
# The version that these files describe. Raised when an older peer would misunderstand a newer one;
# a member that may be ignored raises nothing.

# ======================================================================================
# Names and times

using ActionId = UInt64;
# Given by the controller; never reused within an epoch.

using Attempt = UInt32;
# Counted from 1.

using Epoch = UInt64;
# One reign of one controller. A later reign has a larger number.

using ExecutorId = UInt64;
# Given by the controller to one incarnation of one executor; never reused within an epoch.

using GatewayId = UInt64;
# Given by the controller; kept by a gateway from one epoch to the next.

using Incarnation = UInt64;
# One life of one executor's process.

using ModelId = UInt64;
# Derived from a model's name and contents, so that nobody needs a table of them.

using RequestId = UInt64;
# Its gateway's id in the upper 20 bits, that gateway's own count in the lower 44.

using TenantId = UInt32;
# For whom device time is shared out. 0 is the default tenant.

using Ticket = UInt64;
# Joins a gateway's inputs to the controller's action at the executor. Not to be guessed.

using Instant = Int64;
# Nanoseconds of cluster time, unless the member's comment names another clock.

using Duration = Int64;
# Nanoseconds; of no clock in particular.

struct Pong {
  # The answer to `ping`: with the caller's own two instants, four from which the clocks' offset and
  # its error bound follow, as in NTP.

  receivedNs @0 :Instant;
  # When the ping came in, on the answering side's clock.

  repliedNs @1 :Instant;
  # When this answer left, on the answering side's clock.
}

# ======================================================================================
# Models

enum Datatype {
  # An element's type, named as the Open Inference Protocol names it. Elements are little-endian.

  unset @0;
  bool @1;
  uint8 @2;
  uint16 @3;
  uint32 @4;
  uint64 @5;
  int8 @6;
  int16 @7;
  int32 @8;
  int64 @9;
  fp16 @10;
  fp32 @11;
  fp64 @12;
}

struct TensorSpec {
  # One input or output of a model.

  name @0 :Text;

  datatype @1 :Datatype;

  shape @2 :List(UInt64);
  # Of one sample: without the batch's dimension.
}

struct ModelSpec {
  # What every process needs to know of a model. Weights and programs never travel here: they are
  # in the store, under their hashes.

  modelId @0 :ModelId;

  name @1 :Text;
  # As clients say it. Unique in a cluster.

  programSha256 @2 :Text;
  # In lowercase hexadecimal digits, like the next.

  weightsSha256 @3 :Text;

  imageBytes @4 :UInt64;
  # Size of the weights as they lie in device memory; says how many pages they take.

  inputs @5 :List(TensorSpec);

  outputs @6 :List(TensorSpec);

  batchSizes @7 :List(UInt32);
  # Ascending; the first is 1. A batch in between is padded up to the next.

  version @8 :UInt32;
  # Which of those that have come under this name, counted from 1.
}

struct Share {
  # A version's part of the requests for a name.

  version @0 :UInt32;
  percent @1 :UInt32;
}

enum VersionRole {
  # What a version is there for.

  unset @0;

  current @1;

  wanted @2;
  # Being prepared, to become current.

  canary @3;
  # Served beside the current one; with a share of 0 only to those who ask for it by number.

  kept @4;
  # In the store, to go back to.

  failed @5;
  # It could not be prepared.
}

struct VersionStatus {
  # One version of a name.

  version @0 :UInt32;
  modelId @1 :ModelId;
  role @2 :VersionRole;

  percent @3 :UInt32;
  # Of the requests for the name.

  isPrevious @4 :Bool;
  # Was current before: where a rollback goes.

  detail @5 :Text;
  # Why it failed.
}

struct RouteOrder {
  # What an administrator wants of a name's versions.

  name @0 :Text;

  switchTo @1 :UInt32;
  # Make this version current once it is ready; 0: leave that as it is.

  shares @2 :List(Share);
  # Canaries, and their part of the requests.

  isWhole @3 :Bool;
  # These are all the canaries; else the others stay.
}

enum ModelState {
  # How far a model's registration has come.

  unset @0;

  registering @1;
  # Its program is being loaded and its batch sizes measured. Requests are refused `notReady`.

  ready @2;

  failed @3;
  # No executor could prepare it; `ModelStatus.detail` says why.
}

struct ProfileEntry {
  # What was measured of one batch size on one kind of device.

  batchSize @0 :UInt32;

  samples @1 :UInt64;
  # How many runs the numbers below are taken from.

  p50Ns @2 :Duration;
  p99Ns @3 :Duration;
  maxNs @4 :Duration;

  estimateNs @5 :Duration;
  # What the scheduler plans with.
}

struct ModelStatus {
  # A model as the controller sees it now.

  spec @0 :ModelSpec;

  state @1 :ModelState;

  stepsDone @2 :UInt32;
  # Registration's progress: measured runs done, of `stepsTotal`.

  stepsTotal @3 :UInt32;

  profile @4 :List(ProfileEntry);

  loadNs @5 :Duration;
  # Planned duration of bringing its weights onto a device; 0 before the first was measured.

  detail @6 :Text;
}

# ======================================================================================
# Answers that are not outputs

enum RefusalReason {
  # Why a request was refused while its caller still has time to go elsewhere.

  unset @0;

  overload @1;
  # Every device that could run it is full of promises until past its deadline.

  deadlineTooShort @2;
  # Not even an idle device with the weights in place could make it: ask for more time.

  cold @3;
  # The weights are on no device and could not be brought there in time.

  notReady @4;
  # The model is still being registered.

  noExecutor @5;
  # No executor is alive that can run the model.

  overQuota @6;
  # The tenant's own limit, not the cluster's.

  busy @7;
  # The gateway's own bounds (open requests, payload bytes) are full.

  shuttingDown @8;

  queueFull @9;
  # Of a best-effort request: too many wait already, of its tenant and model or in all.
}

struct Refusal {
  # A refusal, with what the caller needs to decide where to go next.

  reason @0 :RefusalReason;

  isEarliestKnown @1 :Bool;
  # Whether the next member means anything.

  earliestFinishNs @2 :Int64;
  # When the answer could have been had, were this request alone in asking. Inside the cluster an
  # instant of cluster time; in a client's answer a duration from the arrival of the call.

  message @3 :Text;
  # For people.
}

enum FailureKind {
  # Why a request was neither served nor refused.

  unset @0;

  unknownModel @1;
  invalidInput @2;
  invalidSlo @3;
  tooLarge @4;
  cancelled @5;

  late @6;
  # The deadline passed after a promise: a broken promise.

  executorLost @7;
  # The executor died and no time was left for another try.

  deviceFault @8;
  internal @9;
}

struct Failure {
  kind @0 :FailureKind;

  message @1 :Text;
  # What was expected, what came, and what to do.
}

# ======================================================================================
# What `cw status` shows

struct ExecutorStatus {
  # An executor as the controller sees it now.

  executorId @0 :ExecutorId;

  name @1 :Text;

  state @2 :Text;
  # `serving`, `preparing` or `lost`. Text, since it is shown and never acted upon.

  device @3 :Text;
  # The processor's or card's name.

  pagesTotal @4 :UInt64;

  pagesFree @5 :UInt64;

  resident @6 :List(Text);
  # Names of the models whose weights are in its pages.

  utilisation @7 :Float64;
  # Share of the last seconds in which its INFER lane ran actions; 0 to 1.
}

struct Count {
  name @0 :Text;
  count @1 :UInt64;
}

struct Ledger {
  # What became of all requests since the controller's start.

  requests @0 :UInt64;

  kept @1 :UInt64;
  # Answered before their deadline.

  refused @2 :List(Count);
  # By reason, as in `RefusalReason`.

  broken @3 :List(Count);
  # By cause: `executorLost`, `ranLong`, `preempted`, `startedLate`, `inputsLate`, `deliveredLate`.

  failed @4 :List(Count);
  # By kind, as in `FailureKind`.
}

struct ClusterStatus {
  epoch @0 :Epoch;

  queued @1 :UInt64;
  # Requests that wait for a decision or for their action.

  executors @2 :List(ExecutorStatus);

  models @3 :List(ModelStatus);

  ledger @4 :Ledger;

  cells @5 :List(CellStatus);
  # Of a gateway before several controllers; all else is then their sum, and the first one's epoch.

  bestEffort @6 :Ledger;
  # Of the requests without an SLO, which `ledger` leaves out. Their `kept` are those that were
  # answered, whenever that was.
}

struct CellStatus {
  cell @0 :UInt16;

  epoch @1 :Epoch;
  # 0 while its controller can't be reached.

  executors @2 :List(Text);
  # Their names.

  queued @3 :UInt64;

  ledger @4 :Ledger;
}
