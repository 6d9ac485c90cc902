package container

import (
	"math/rand/v2"
	"strconv"
	"strings"
)

const (
	adjectives = `able agile amber ample apt arch azure bold brave bright brisk calm candid clear clever cosmic crisp daring deft
		dreamy eager early earnest elated epic fair famous festive fine firm fleet fond frank free fresh gallant gentle gifted glad
		golden grand great handy happy hardy hearty honest hopeful humble jolly jovial keen kind lively loyal lucid lucky mellow
		merry mighty modest neat nimble noble patient placid polite proud quick quiet quirky rapid ready robust serene sharp silent
		silver sleek smooth snug sober stoic strong sunny sure swift tender tidy trim true trusty upbeat vivid warm wise witty`
	nouns = `aft anchor ballast batten beam berth bilge binnacle bitt block boom bosun bow bowsprit bridge brig buoy cabin caravel
		carrack chart cleat clipper cog compass cutter davit deck dinghy dory fathom fender ferry foremast frigate galleon galley
		garboard gunwale halyard harbor hatch hawser helm hold hull jib junk keel keelson ketch knot lantern lateen ledger locker
		lugger mainsail mast mizzen mooring oar packet pier pilot pinnace port prow quay rigging rudder sail schooner scow scupper
		sextant sheet shroud skiff sloop spanker spar stay stem stern tender thwart tiller topmast transom trawler wharf winch yawl`
)

// RandomName makes a name up, as docker has them: an adjective, _, a noun. When that was tried often without success it has a number.
func RandomName(tries int) string {
	words := func(list string) string {
		all := strings.Fields(list)
		return all[rand.IntN(len(all))] //nolint:gosec // a name is no secret
	}
	name := words(adjectives) + "_" + words(nouns)
	if tries > 3 {
		name += strconv.Itoa(rand.IntN(1 << tries)) //nolint:gosec // a name is no secret
	}
	return name
}
