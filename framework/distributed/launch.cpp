#include "framework/distributed/launch.h"

#include <c10/util/StringUtil.h>

#include <charconv>
#include <cstdlib>

#include "framework/errors/error.h"

namespace regroup {
namespace {

constexpr int64_t kMostProcesses = 1 << 20;

/// Integers and strings of the environment, with errors that name the variable.
class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}

  bool has(const char* name) const { return environment_(name).has_value(); }
  std::optional<std::string> text(const char* name) const { return environment_(name); }

  std::optional<int64_t> integer(const char* name, int64_t least, int64_t most) const {
    const auto text = environment_(name);
    if (!text) return std::nullopt;
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (error == std::errc() && end == text->data() + text->size() && value >= least &&
        value <= most) {
      return value;
    }
    throw request_error(
        name, c10::str("is \"", *text, "\", expected an integer from ", least, " to ", most),
        "The launcher sets it, or the script that starts the processes.");
  }

  int required(const char* name, int64_t least, int64_t most) const {
    const auto value = integer(name, least, most);
    if (value) return static_cast<int>(*value);
    throw request_error(name,
                        "is not set, though other variables show that there are several processes",
                        "Set RANK, WORLD_SIZE and LOCAL_RANK for every process, or start them with "
                        "torchrun, mpirun or srun.");
  }

 private:
  const Environment& environment_;
};

/// A launcher's names for these variables.
struct Names {
  const char *rank, *size, *local_rank, *local_size;
};

void read_ranks(const Variables& variables, const Names& names, Launch& launch) {
  launch.size = variables.required(names.size, 1, kMostProcesses);
  launch.rank = variables.required(names.rank, 0, launch.size - 1);
  launch.local_size =
      static_cast<int>(variables.integer(names.local_size, 1, launch.size).value_or(launch.size));
  launch.local_rank = static_cast<int>(variables.integer(names.local_rank, 0, launch.local_size - 1)
                                           .value_or(launch.rank % launch.local_size));
}

void read_address(const Variables& variables, Launch& launch) {
  launch.address = variables.text("MASTER_ADDR").value_or(launch.address);
  launch.port =
      static_cast<uint16_t>(variables.integer("MASTER_PORT", 1, 65535).value_or(launch.port));
}

Launch read_torch(const Variables& variables) {
  Launch launch;
  read_ranks(variables, {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}, launch);
  read_address(variables, launch);
  launch.agent_listens = variables.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
  return launch;
}

Launch read_open_mpi(const Variables& variables) {
  Launch launch;
  read_ranks(variables,
             {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
              "OMPI_COMM_WORLD_LOCAL_SIZE"},
             launch);
  read_address(variables, launch);
  if (launch.local_size < launch.size && !variables.has("MASTER_ADDR")) {
    throw request_error("MASTER_ADDR", "is not set, and mpirun started processes on several nodes",
                        "Export the address of rank 0's node: mpirun -x MASTER_ADDR=HOST ...");
  }
  return launch;
}

/// Slurm lists the number of processes of each node as "4(x2),3"; SLURM_NODEID is this node's
/// index.
int slurm_local_size(const Variables& variables, const Launch& launch) {
  const auto counts = variables.text("SLURM_STEP_TASKS_PER_NODE");
  if (!counts) return launch.size;
  int64_t node = variables.integer("SLURM_NODEID", 0, kMostProcesses).value_or(0);
  const char* next = counts->c_str();
  while (true) {
    char* end = nullptr;
    const long count = std::strtol(next, &end, 10);
    long repeats = 1;
    if (end[0] == '(' && end[1] == 'x') {
      repeats = std::strtol(end + 2, &end, 10);
      if (*end == ')') ++end;
    }
    if (end == next || count < 1 || count > launch.size || repeats < 1) break;
    if (node < repeats) return static_cast<int>(count);
    node -= repeats;
    if (*end != ',') break;
    next = end + 1;
  }
  throw request_error("SLURM_STEP_TASKS_PER_NODE",
                      c10::str("is \"", *counts, "\", which does not list node ",
                               variables.text("SLURM_NODEID").value_or("0")),
                      "srun sets it; start the processes with srun.");
}

Launch read_slurm(const Variables& variables) {
  constexpr uint16_t kFirstPort = 20000, kPorts = 10000;
  Launch launch;
  launch.size = variables.required("SLURM_STEP_NUM_TASKS", 1, kMostProcesses);
  launch.rank = variables.required("SLURM_PROCID", 0, launch.size - 1);
  launch.local_size = slurm_local_size(variables, launch);
  launch.local_rank = variables.required("SLURM_LOCALID", 0, launch.local_size - 1);
  if (launch.local_size < launch.size) {
    const auto nodes = variables.text("SLURM_STEP_NODELIST");
    if (!nodes && !variables.has("MASTER_ADDR")) {
      throw request_error("SLURM_STEP_NODELIST", "is not set", "Set MASTER_ADDR to rank 0's node.");
    }
    if (nodes) launch.address = first_node(*nodes);
  }
  const auto job = variables.integer("SLURM_JOB_ID", 0, INT64_MAX).value_or(0);
  const auto step = variables.integer("SLURM_STEP_ID", 0, INT64_MAX).value_or(0);
  // Jobs that share a node must not share a port.
  launch.port = static_cast<uint16_t>(kFirstPort + (job + 7 * step) % kPorts);
  read_address(variables, launch);
  return launch;
}

/// True in a step that srun started. A batch script has the job's variables but is a single
/// process.
bool is_slurm_step(const Variables& variables) {
  constexpr int64_t kFirstSpecialStep = 0xfffffff0;  // batch, extern, interactive
  if (!variables.has("SLURM_STEP_NUM_TASKS") || !variables.has("SLURM_PROCID")) return false;
  const auto step = variables.integer("SLURM_STEP_ID", 0, INT64_MAX);
  return step && *step < kFirstSpecialStep;
}

}  // namespace

bool Launch::has_equal_nodes() const {
  return size % local_size == 0 && rank % local_size == local_rank;
}

std::optional<std::string> environment_variable(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? std::optional<std::string>(value) : std::nullopt;
}

std::optional<Launch> read_launch(const Environment& environment) {
  const Variables variables(environment);
  Launch launch;
  if (variables.has("RANK") || variables.has("WORLD_SIZE")) {
    launch = read_torch(variables);
  } else if (variables.has("OMPI_COMM_WORLD_SIZE")) {
    launch = read_open_mpi(variables);
  } else if (is_slurm_step(variables)) {
    launch = read_slurm(variables);
  }
  return launch.size > 1 ? std::optional<Launch>(launch) : std::nullopt;
}

std::string first_node(const std::string& nodes) {
  const auto stop = nodes.find_first_of(",[");
  if (stop == std::string::npos || nodes[stop] == ',') return nodes.substr(0, stop);
  const auto end = nodes.find_first_of(",-]", stop);
  return nodes.substr(0, stop) + nodes.substr(stop + 1, end - stop - 1);
}

}  // namespace regroup
