@0xd74defee6bda5785;
# An executor's two sides. The controller orders actions and gets their results; gateways bring
# inputs and take outputs. The two meet in the executor by (epoch, action, ticket), in any order.

using Common = import "common.capnp";

interface Executor @0xb160d885e37510cc {
  # An executor, as the controller sees it; handed over in `Controller.joinExecutor`.

  tell @0 (orders :List(Orders)) -> ();
  # Orders, in the order given; all that had piled up since the last call. The answer only says that
  # they were taken in: results come back through `ExecutorSession.tell`.
}

interface Inference @0xc128bea9813bf025 {
  # An executor, as gateways see it: the bootstrap capability of its data address.

  infer @0 (inputs :BatchInputs) -> (outputs :BatchOutputs);
  # Bring one gateway's share of the inputs of one action; answered when that action has ended. The
  # outputs are kept until the action's last deadline, so that the same call, made again after a
  # broken connection, gives the same outputs.

  cancel @1 (slots :List(CancelSlot)) -> ();
  # Nobody waits for these any more. A slot that has not started is left out of its batch.
}

# ======================================================================================
# Control: actions and their results

struct Orders {
  # What the controller has decided for one executor.

  epoch @0 :Common.Epoch;
  # Actions of an older epoch than the latest seen are answered `staleEpoch`, unrun.

  actions @1 :List(Action);

  cancels @2 :List(CancelSlot);
}

struct Action {
  actionId @0 :Common.ActionId;

  expectedNs @1 :Common.Duration;
  # Predicted duration. 0 for `unload`, as are the next two.

  earliestNs @2 :Common.Instant;
  # Not started before this.

  latestNs @3 :Common.Instant;
  # Not started after this: then answered `tooLate`, unrun. Both ends belong to the window.

  union {
    unset @4 :Void;

    prepare @5 :Common.ModelSpec;
    # Load the program, reserve addresses, open the image: once, at registration. On the INFER
    # lane, since it takes long and would disturb what runs beside it.

    load :group {
      # Copy the weights into free pages.

      modelId @6 :Common.ModelId;
    }

    unload :group {
      # Free the pages.

      modelId @7 :Common.ModelId;

      forget @8 :Bool;
      # Drop what `prepare` made, too: the model was removed.
    }

    infer :group {
      # Run one batch.

      modelId @9 :Common.ModelId;

      batchSize @10 :UInt32;
      # The captured size that runs. As many of it as there are slots are requests, the rest is
      # padding.

      slots @11 :List(Slot);
      # A request's position in the batch is its index here. None at all makes the action a
      # *probe*: random inputs, run to be measured.

      ticket @12 :Common.Ticket;
    }
  }

  plannedStartNs @13 :Common.Instant;
  # When it should start, as the controller foresaw at its sending; 0 for `unload`. It binds nobody:
  # the result says it beside what came true. The planned end is this plus `expectedNs`.
}

struct Slot {
  requestId @0 :Common.RequestId;

  attempt @1 :Common.Attempt;

  deadlineNs @2 :Common.Instant;
  # The request's own; its outputs need not be kept for longer.

  tenantId @3 :Common.TenantId;
  # Who pays for its part of the batch.
}

struct CancelSlot {
  requestId @0 :Common.RequestId;
  attempt @1 :Common.Attempt;
}

enum Outcome {
  # How an action ended. Everything but `ok` left the device as it was.

  unset @0;

  ok @1;

  tooLate @2;
  # Its window had closed before it could start.

  inputsLate @3;
  # No inputs had come when the window closed.

  notResident @4;
  # The weights are not in its pages.

  pagesExhausted @5;

  unknownModel @6;
  # There was no `prepare` of that model.

  cancelled @7;
  # Every slot was cancelled before the start.

  staleEpoch @8;

  invalid @9;
  # The program or the image could not be prepared.

  deviceFault @10;
  # The device is broken. The executor ends itself after having said so.

  hostMemoryFull @11;
  # There is no room for the model's image beside those of other models. Another executor may have
  # some.
}

struct ActionResult {
  # One action's end, measured.

  actionId @0 :Common.ActionId;

  outcome @1 :Outcome;

  receivedNs @2 :Common.Instant;
  # When the executor had the action.

  readyNs @3 :Common.Instant;
  # When its last inputs came; `receivedNs` for actions without.

  startNs @4 :Common.Instant;

  endNs @5 :Common.Instant;

  deviceNs @6 :Common.Duration;
  # On the device alone: what profiles learn from. 0 unless `ok`.

  runningNs @7 :Common.Duration;
  # Of `deviceNs`, the time in which the device's own thread was on a processor. The rest is the
  # machine's doing, not the model's. Equal to `deviceNs` where it cannot be told.

  ran @8 :List(Bool);
  # Per slot: its inputs were there and it ran.

  detail @9 :Text;

  plannedStartNs @10 :Common.Instant;
  # As ordered, like the next; both 0 for `unload`.

  expectedNs @11 :Common.Duration;

  clockOffsetNs @12 :Common.Duration;
  # Cluster time less the executor's own clock (so it may be negative), as the instants above were
  # converted. Less this, each of them is what that clock showed.

  clockErrorNs @13 :Common.Duration;
  # Bound on the error of that offset, either way.
}

# ======================================================================================
# Data: inputs and outputs

struct BatchInputs {
  # One gateway's share of one action.

  epoch @0 :Common.Epoch;
  actionId @1 :Common.ActionId;
  ticket @2 :Common.Ticket;
  slots @3 :List(SlotInputs);
}

struct SlotInputs {
  position @0 :UInt32;
  # The request's place in the batch.

  requestId @1 :Common.RequestId;

  attempt @2 :Common.Attempt;

  arrivalNs @3 :Common.Instant;
  # When the gateway had the whole request.

  tensors @4 :List(Data);
  # In the order of the model's inputs.
}

struct BatchOutputs {
  outcome @0 :Outcome;

  deviceNs @1 :Common.Duration;

  batchSize @2 :UInt32;
  # Requests in the batch that ran.

  slots @3 :List(SlotOutputs);
  # In the order of the call's.

  detail @4 :Text;

  executorNs @5 :Common.Duration;
  # From the receipt of this call to the handing over of its answer.

  waitedNs @6 :Common.Duration;
  # The first part of that, until the batch started on the device.
}

struct SlotOutputs {
  position @0 :UInt32;

  laneBusyNs @1 :Common.Duration;
  # In which the lane ran other actions while this request waited.

  union {
    unset @2 :Void;

    outputs @3 :List(Data);
    # In the order of the model's outputs.

    notRun @4 :Void;
    # Its inputs were late or it was cancelled; the rest of the batch may well have run.
  }
}
