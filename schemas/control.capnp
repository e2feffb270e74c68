@0xe26ee51298f1f00e;
# How gateways and executors live with their controller.
#
# Each joins by handing over a capability of its own, over which the controller then speaks, and
# gets a session back, over which it reports. Both die with the connection: whoever was cut off
# dials again and joins anew. Both directions use `tell`, whose answer only says that the messages
# were taken in, so that nobody ever waits for a peer to decide. A call carries all that had piled
# up since the one before, and messages are taken in the order told.

using Catalog = import "catalog.capnp";
using Common = import "common.capnp";
using Exec = import "executor.capnp";

interface Controller @0x823df5bd073a20a7 {
  # The bootstrap capability of a controller.

  joinGateway @0 (hello :GatewayHello, gateway :Gateway, protocolVersion :UInt16)
      -> (welcome :GatewayWelcome, session :GatewaySession, protocolVersion :UInt16);
  # Introduce a gateway. Before the answer it is told of the models and executors that there are.
  # Versions are agreed upon as in `Serving.login`.

  joinExecutor @1 (hello :ExecutorHello, executor :Exec.Executor, protocolVersion :UInt16)
      -> (welcome :ExecutorWelcome, session :ExecutorSession, protocolVersion :UInt16);
  # Introduce an executor. Orders follow.
}

interface Gateway @0xbd1fb5fe7c6a5330 {
  # A gateway, as the controller sees it.

  tell @0 (notices :List(Notices)) -> ();
}

interface GatewaySession @0x82da4cecf4242e95 {
  # The controller, as one of its gateways sees it.

  tell @0 (reports :List(GatewayReport)) -> ();

  ping @1 (sentNs :Int64) -> (pong :Common.Pong);
  # A sign of life of both sides, and a reading of the controller's clock. `sentNs` is on the
  # caller's own monotonic clock.

  addModel @2 (spec :Common.ModelSpec, hold :Bool) -> (spec :Common.ModelSpec);
  # Register a version of a model, whose archive is in the store; gives it back with its number. The
  # first of a name is current at once, a later one when it is ready, or not at all when `hold` says
  # so. Answered at once; `modelStatus` shows how far
  # it has come. Raises ModelConflict or ProgramNotAllowed.

  removeModel @3 (modelId :Common.ModelId) -> ();
  # Take a model out of service and out of the store. Raises UnknownModel.

  modelStatus @4 (modelId :Common.ModelId) -> (status :Common.ModelStatus);
  # Raises UnknownModel.

  status @5 () -> (status :Common.ClusterStatus);

  versions @6 (name :Text) -> (versions :List(Common.VersionStatus));
  # Describe a name's versions, the oldest first. Raises UnknownModel.

  routeModel @7 (order :Common.RouteOrder) -> (versions :List(Common.VersionStatus));
  # Change what a name stands for. Raises UnknownModel, UnknownVersion or RequestInvalid.

  catalog @8 (order :Catalog.CatalogOrder) -> (answer :Catalog.CatalogAnswer);
  # Read or change the catalog. Raises RequestInvalid, UnknownTenant, UnknownModel, ModelConflict or
  # QuotaExceeded.

  meter @9 (batch :UsageBatch) -> (through :UInt64);
  # Hand over what was used. The answer says up to which number the catalog has all of that life's
  # records; what lies behind it is told again. Raises CatalogFailed.
}

interface ExecutorSession @0xe0298fa0fa03df7c {
  # The controller, as one of its executors sees it.

  tell @0 (results :List(Exec.ActionResult)) -> ();

  ping @1 (sentNs :Int64) -> (pong :Common.Pong);
  # As in `GatewaySession`.

  meter @2 (batch :UsageBatch) -> (through :UInt64);
  # As in `GatewaySession`.
}

# ======================================================================================
# Introductions

struct GatewayHello {
  name @0 :Text;
  # For people and logs.

  hasPreviousId @1 :Bool;
  # Whether the next member means anything.

  previousId @2 :Common.GatewayId;
  # The id that it had in an earlier epoch: its open requests still carry it.
}

struct GatewayWelcome {
  epoch @0 :Common.Epoch;
  gatewayId @1 :Common.GatewayId;
}

struct DeviceDescription {
  # What a device is, for planning.

  kind @0 :Text;
  # `cpu`, `emulated` or `cuda`.

  name @1 :Text;
  # The processor's or card's. Profiles are shared between devices of equal kind and name.

  pagesTotal @2 :UInt64;

  sharedLanes @3 :Bool;
  # Loading and inferring take turns on one resource, so that one timeline plans both.

  loadBytesPerSecond @4 :UInt64;
  # First guess of a LOAD's rate, until one was measured.
}

struct ExecutorHello {
  name @0 :Text;

  incarnation @1 :Common.Incarnation;

  dataAddress @2 :Text;
  # Where gateways dial it: `tcp:HOST:PORT` or `unix:PATH`.

  device @3 :DeviceDescription;

  prepared @4 :List(Common.ModelId);
  # Models that it can run already: then the controller is new and the executor is not.

  resident @5 :List(Common.ModelId);
  # Of those, the ones whose weights are in pages now.
}

struct ExecutorWelcome {
  epoch @0 :Common.Epoch;
  executorId @1 :Common.ExecutorId;
}

# ======================================================================================
# Gateway to controller

struct GatewayReport {
  # One thing that a gateway says of one of its requests.

  requestId @0 :Common.RequestId;

  attempt @1 :Common.Attempt;
  # The gateway's current one.

  union {
    unset @2 :Void;

    descriptor :group {
      # The request has come. All that the controller learns of it; the payload stays behind.

      modelId @3 :Common.ModelId;
      arrivalNs @4 :Common.Instant;
      deadlineNs @5 :Common.Instant;

      promised @6 :Bool;
      # It is told again to a new epoch, and an earlier one had promised it.

      tenantId @11 :Common.TenantId;
      # Whose request it is.
    }

    settled :group {
      # The request was answered, finally; the controller may forget it. Not sent after `refuse` or
      # `abandon`, with which the controller ended it itself.

      outcome @7 :SettledAs;
      finishedNs @8 :Common.Instant;
    }

    attemptFailed :group {
      # The attempt gave no output; may there be another?

      detail @9 :Text;
    }

    cancel @10 :Void;
    # The caller went away before the answer. No decision is wanted any more.
  }
}

enum SettledAs {
  # How a request ended at its gateway: the only source of kept and broken.

  unset @0;
  kept @1;
  late @2;
  failed @3;
  cancelled @4;
}

# ======================================================================================
# Controller to gateway

struct Notices {
  # What a gateway has to know; its members apply in the order in which they stand here.

  modelsAdded @0 :List(Common.ModelSpec);
  modelsRemoved @1 :List(Common.ModelId);
  executorsJoined @2 :List(ExecutorAddress);
  executorsLost @3 :List(Common.ExecutorId);
  decisions @4 :List(Decision);

  routes @5 :List(Route);
  # After the models that are added, before those that are removed.

  directory @6 :List(Catalog.DirectoryChange);
  # Before all the others: nobody is to see a model before it is known whose it is.
}

struct Route {
  # Who gets the requests for a name that ask for no version.

  name @0 :Text;

  current @1 :Common.ModelId;
  # Gets what the shares leave.

  shares @2 :List(Common.Share);
}

struct ExecutorAddress {
  executorId @0 :Common.ExecutorId;

  address @1 :Text;
  # Its data side: where to bring inputs.
}

struct Decision {
  union {
    unset @0 :Void;

    promise :group {
      # The request will be answered before its deadline.

      requestId @1 :Common.RequestId;
      attempt @2 :Common.Attempt;

      predictedFinishNs @3 :Common.Instant;
      # By when.
    }

    refuse :group {
      # Final.

      requestId @4 :Common.RequestId;
      attempt @5 :Common.Attempt;
      refusal @6 :Common.Refusal;
    }

    abandon :group {
      # It failed after it was taken on, and no further attempt will be made. Final.

      requestId @7 :Common.RequestId;
      attempt @8 :Common.Attempt;
      failure @9 :Common.Failure;
    }

    assign :group {
      # Bring these requests' inputs to that executor; implies a promise for each of them.

      epoch @10 :Common.Epoch;
      actionId @11 :Common.ActionId;
      ticket @12 :Common.Ticket;
      executorId @13 :Common.ExecutorId;
      predictedFinishNs @14 :Common.Instant;
      assignments @15 :List(Assignment);
    }
  }
}

struct Assignment {
  # One request's place in an assigned action.

  requestId @0 :Common.RequestId;
  attempt @1 :Common.Attempt;

  position @2 :UInt32;
  # In the batch.
}

# ======================================================================================
# Usage

struct UsageBatch {
  # Numbered records of one life of one process; the catalog adds each number once.

  source @0 :Text;
  # `executor:NAME` or `gateway:NAME`.

  incarnation @1 :Common.Incarnation;

  records @2 :List(UsageRecord);
  # In the order of their numbers.
}

struct UsageRecord {
  number @0 :UInt64;
  # Counts from 1 in each life.

  entries @1 :List(UsageEntry);
}

struct UsageEntry {
  # What one tenant used of one model in one hour.

  hour @0 :UInt32;
  # Since 1970, UTC.

  tenantId @1 :Common.TenantId;
  # 2^32 - 1: whoever owns the model.

  model @2 :Text;

  gpuNs @3 :UInt64;
  loadBytes @4 :UInt64;

  residentByteMs @5 :UInt64;
  # Bytes of weights in pages times the milliseconds that they were there.

  unknown @6 :UInt64;
  # Batches and LOADs that had begun when their executor was killed.

  kept @7 :UInt64;
  refused @8 :UInt64;
  broken @9 :UInt64;
  failed @10 :UInt64;
}
