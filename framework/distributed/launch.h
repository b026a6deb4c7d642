// framework/distributed/launch.h: rank and size of this process, from the environment variables of
// its launcher: torchrun, mpirun, srun, or a script that sets the variables itself.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace regroup {

struct Launch {
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  // among the processes of this node
  std::string address = "127.0.0.1";   // where rank 0, or torchrun's agent, listens
  uint16_t port = 29500;
  bool agent_listens = false;  // torchrun's agent serves address:port; otherwise rank 0 does

  bool is_rank_0() const { return rank == 0; }
  /// True where all nodes have the same number of processes, numbered node by node.
  bool has_equal_nodes() const;
};

using Environment = std::function<std::optional<std::string>(const char* name)>;
/// A variable of this process. An empty one counts as absent.
std::optional<std::string> environment_variable(const char* name);

/// Reads RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; else Open
/// MPI's variables; else, inside a step of srun, Slurm's. Empty where there is only one process.
/// Throws a request Error for variables that are missing or contradict each other.
std::optional<Launch> read_launch(const Environment& environment = environment_variable);

/// The first node of a list in Slurm's notation: "a[03-05,9],b1" -> "a03".
std::string first_node(const std::string& nodes);

}  // namespace regroup
