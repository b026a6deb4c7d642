#include "framework/distributed/launch.h"

#include <map>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

using Variables = std::map<std::string, std::string>;

std::optional<Launch> launch_of(const Variables& variables) {
  return read_launch([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional<std::string>(found->second);
  });
}

std::string refusal_of(const Variables& variables) {
  try {
    launch_of(variables);
  } catch (const Error& error) {
    CHECK(error.exit_code() == ExitCode::kBadRequest);
    return error.what();
  }
  return "";
}

bool names(const std::string& message, const std::string& part) {
  return message.find(part) != std::string::npos;
}

TEST_CASE("without a launcher's variables there is one process", "[launch]") {
  CHECK_FALSE(launch_of({}));
  CHECK_FALSE(launch_of({{"RANK", "0"}, {"WORLD_SIZE", "1"}}));
  CHECK_FALSE(launch_of({{"MASTER_ADDR", "node1"}, {"LOCAL_RANK", "3"}}));
}

TEST_CASE("torchrun's variables", "[launch]") {
  const auto launch = launch_of({{"RANK", "5"},
                                 {"WORLD_SIZE", "8"},
                                 {"LOCAL_RANK", "1"},
                                 {"LOCAL_WORLD_SIZE", "4"},
                                 {"MASTER_ADDR", "node1"},
                                 {"MASTER_PORT", "1234"},
                                 {"TORCHELASTIC_USE_AGENT_STORE", "True"}});
  REQUIRE(launch);
  CHECK(launch->rank == 5);
  CHECK(launch->size == 8);
  CHECK(launch->local_rank == 1);
  CHECK(launch->local_size == 4);
  CHECK(launch->address == "node1");
  CHECK(launch->port == 1234);
  CHECK(launch->agent_listens);
  CHECK(launch->has_equal_nodes());
}

TEST_CASE("rank and size alone mean one node", "[launch]") {
  const auto launch = launch_of({{"RANK", "1"}, {"WORLD_SIZE", "3"}});
  REQUIRE(launch);
  CHECK(launch->local_rank == 1);
  CHECK(launch->local_size == 3);
  CHECK(launch->address == "127.0.0.1");
  CHECK_FALSE(launch->agent_listens);
}

TEST_CASE("variables that are wrong or missing are named", "[launch]") {
  CHECK(names(refusal_of({{"WORLD_SIZE", "2"}}), "RANK: is not set"));
  CHECK(names(refusal_of({{"RANK", "0"}}), "WORLD_SIZE: is not set"));
  CHECK(names(refusal_of({{"RANK", "2"}, {"WORLD_SIZE", "2"}}), "RANK: is \"2\", expected"));
  CHECK(names(refusal_of({{"RANK", "one"}, {"WORLD_SIZE", "2"}}), "\"one\""));
  CHECK(names(refusal_of({{"RANK", "0"}, {"WORLD_SIZE", "-2"}}), "WORLD_SIZE"));
  CHECK(names(refusal_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "99999"}}),
              "MASTER_PORT"));
  CHECK(names(refusal_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_WORLD_SIZE", "3"}}),
              "LOCAL_WORLD_SIZE"));
}

TEST_CASE("Open MPI's variables, of which several nodes need an address", "[launch]") {
  Variables variables{{"OMPI_COMM_WORLD_RANK", "3"},
                      {"OMPI_COMM_WORLD_SIZE", "4"},
                      {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                      {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  CHECK(names(refusal_of(variables), "MASTER_ADDR"));
  variables["MASTER_ADDR"] = "10.0.0.1";
  const auto launch = launch_of(variables);
  REQUIRE(launch);
  CHECK(launch->rank == 3);
  CHECK(launch->size == 4);
  CHECK(launch->local_rank == 1);
  CHECK(launch->local_size == 2);
  CHECK(launch->address == "10.0.0.1");
}

TEST_CASE("Slurm's variables count inside a step of srun alone", "[launch]") {
  Variables variables{{"SLURM_JOB_ID", "77"},
                      {"SLURM_STEP_ID", "0"},
                      {"SLURM_PROCID", "6"},
                      {"SLURM_STEP_NUM_TASKS", "7"},
                      {"SLURM_LOCALID", "2"},
                      {"SLURM_NODEID", "1"},
                      {"SLURM_STEP_NUM_NODES", "2"},
                      {"SLURM_STEP_TASKS_PER_NODE", "4,3"},
                      {"SLURM_STEP_NODELIST", "gpu[07-08]"}};
  const auto launch = launch_of(variables);
  REQUIRE(launch);
  CHECK(launch->rank == 6);
  CHECK(launch->size == 7);
  CHECK(launch->local_rank == 2);
  CHECK(launch->local_size == 3);
  CHECK(launch->address == "gpu07");
  CHECK(launch->port == 20077);
  CHECK_FALSE(launch->has_equal_nodes());

  variables["SLURM_STEP_TASKS_PER_NODE"] = "4(x2)";
  CHECK(launch_of(variables)->local_size == 4);
  variables["SLURM_STEP_TASKS_PER_NODE"] = "what";
  CHECK(names(refusal_of(variables), "SLURM_STEP_TASKS_PER_NODE"));
  variables["SLURM_STEP_ID"] = "4294967291";  // a batch script
  CHECK_FALSE(launch_of(variables));
  variables.erase("SLURM_STEP_ID");
  CHECK_FALSE(launch_of(variables));
}

TEST_CASE("the first node of a list", "[launch]") {
  CHECK(first_node("a") == "a");
  CHECK(first_node("a,b") == "a");
  CHECK(first_node("a[03-05,9],b1") == "a03");
  CHECK(first_node("a[7,9]") == "a7");
  CHECK(first_node("rack1-node[12]") == "rack1-node12");
}

}  // namespace
}  // namespace regroup
